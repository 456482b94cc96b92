//! The machine as a value: hugepages, lcores, clock and topology for poll-mode programs.
