//! What every Dormouse process shares.
