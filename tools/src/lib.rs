//! The wirerate program: doctor, hugepages, bench.
