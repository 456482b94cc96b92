//! End-to-end tests of Wirerate.
