//! A lockless pool of fixed-size objects with per-thread magazines, and a bulk ring.
