//! Sequence numbers that wrap: unwrapping 16 bits to 64, and comparing without unwrapping.

/// Extends 16-bit sequence numbers to 64 bits, following the newest one seen.
///
/// The first number is placed in the second cycle (65,536 is added), so that older ones that arrive later do not
/// fall below zero. A number is taken for the nearest to the newest: jumps of 32,768 and more are misread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SequenceUnwrapper {
    newest: Option<u64>,
}

impl SequenceUnwrapper {
    /// The extended number; remembers it if it is the newest.
    pub fn unwrap(&mut self, sequence: u16) -> u64 {
        let extended = self.peek(sequence);
        if self.newest.is_none_or(|newest| extended > newest) {
            self.newest = Some(extended);
        }
        extended
    }

    /// The extended number, without remembering it.
    pub fn peek(&self, sequence: u16) -> u64 {
        match self.newest {
            None => CYCLE + u64::from(sequence),
            Some(newest) => extend(newest, sequence),
        }
    }

    /// The newest extended number so far.
    pub fn newest(&self) -> Option<u64> {
        self.newest
    }
}

/// The number nearest to `reference` whose low 16 bits are `sequence`, not below zero.
pub fn extend(reference: u64, sequence: u16) -> u64 {
    let step = difference(sequence, reference as u16);
    reference
        .checked_add_signed(i64::from(step))
        .unwrap_or(u64::from(sequence))
}

/// How far `a` is ahead of `b`, from -32,768 to 32,767; negative when it is behind.
pub fn difference(a: u16, b: u16) -> i16 {
    a.wrapping_sub(b) as i16
}

/// Whether `a` comes after `b`.
pub fn is_newer(a: u16, b: u16) -> bool {
    difference(a, b) > 0
}

const CYCLE: u64 = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping_forward_and_back_keeps_order() {
        let mut unwrapper = SequenceUnwrapper::default();
        let first = unwrapper.unwrap(65_534);
        assert_eq!(unwrapper.unwrap(65_535), first + 1);
        assert_eq!(unwrapper.unwrap(1), first + 3);
        assert_eq!(unwrapper.unwrap(0), first + 2);
        assert_eq!(unwrapper.newest(), Some(first + 3));
        assert_eq!(unwrapper.unwrap(65_533), first - 1);
    }

    #[test]
    fn numbers_before_the_first_stay_positive() {
        let mut unwrapper = SequenceUnwrapper::default();
        let first = unwrapper.unwrap(0);
        assert_eq!(unwrapper.unwrap(65_535), first - 1);
        assert_eq!(extend(0, 65_535), 65_535);
    }

    #[test]
    fn order_is_by_the_shorter_way_round() {
        assert!(is_newer(0, 65_535));
        assert!(!is_newer(65_535, 0));
        assert!(!is_newer(5, 5));
        assert_eq!(difference(2, 65_534), 4);
    }
}
