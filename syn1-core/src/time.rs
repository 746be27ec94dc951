//! Time as an argument: the protocol never reads a clock.

/// A point in time: milliseconds since an origin of the caller's choice that never moves back.
///
/// ```
/// use syn1_core::Millis;
///
/// assert_eq!(Millis(7).plus(3).since(Millis(2)), 8);
/// assert_eq!(Millis(7).since(Millis(9)), 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Millis(pub u64);

impl Millis {
    /// This time and `ms` milliseconds, saturating at the end of time.
    ///
    /// ```
    /// use syn1_core::Millis;
    ///
    /// assert_eq!(Millis(7).plus(3), Millis(10));
    /// assert_eq!(Millis(u64::MAX).plus(1), Millis(u64::MAX));
    /// ```
    #[must_use]
    pub const fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this time; 0 if `earlier` is later.
    ///
    /// ```
    /// use syn1_core::Millis;
    ///
    /// assert_eq!(Millis(10).since(Millis(7)), 3);
    /// assert_eq!(Millis(7).since(Millis(10)), 0);
    /// ```
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(Millis(u64::MAX).plus(1), Millis(u64::MAX));
        assert_eq!(Millis(1).since(Millis(2)), 0);
        assert_eq!(Millis(7).plus(3).since(Millis(7)), 3);
    }
}
