//! Reads bits of codec headers, most significant bit first. Every read is checked, and nothing is allocated.

use super::Error;

/// Reads `data` bit by bit. `what` names the structure in errors.
#[derive(Clone, Debug)]
pub(super) struct BitReader<'a> {
    data: &'a [u8],
    /// Position in bits.
    at: usize,
    what: &'static str,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(data: &'a [u8], what: &'static str) -> Self {
        Self { data, at: 0, what }
    }

    /// The next `count` bits, at most 32, as an unsigned number.
    pub(super) fn read(&mut self, count: u32) -> Result<u32, Error> {
        debug_assert!(count <= 32);
        let mut value = 0u64;
        for _ in 0..count {
            let byte = self.data.get(self.at / 8).ok_or(Error::Truncated { what: self.what })?;
            value = value << 1 | u64::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Ok(value as u32)
    }

    pub(super) fn flag(&mut self) -> Result<bool, Error> {
        Ok(self.read(1)? == 1)
    }

    pub(super) fn skip(&mut self, bits: usize) -> Result<(), Error> {
        self.at += bits;
        if self.at > self.data.len() * 8 { Err(Error::Truncated { what: self.what }) } else { Ok(()) }
    }

    /// Skips to the next byte boundary.
    pub(super) fn align(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }

    /// Number of bits that are left.
    pub(super) fn left(&self) -> usize {
        (self.data.len() * 8).saturating_sub(self.at)
    }

    /// `ue(v)`: unsigned Exp-Golomb (ITU-T H.264 §9.1).
    pub(super) fn ue(&mut self) -> Result<u32, Error> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return Err(Error::Unsupported { what: "Exp-Golomb length", value: zeros });
            }
        }
        let rest = self.read(zeros as u32)?;
        Ok(((1u64 << zeros) - 1) as u32 + rest)
    }

    /// `se(v)`: signed Exp-Golomb (ITU-T H.264 §9.1.1).
    pub(super) fn se(&mut self) -> Result<i32, Error> {
        let code = i64::from(self.ue()?);
        Ok((if code % 2 == 0 { -(code / 2) } else { (code + 1) / 2 }) as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_golomb() {
        let mut bits = BitReader::new(&[0b1010_0110, 0b0100_0010, 0b1000_0000], "test");
        assert_eq!([0; 4].map(|_: u8| bits.ue()), [Ok(0), Ok(1), Ok(2), Ok(3)]);
        assert_eq!(bits.ue(), Ok(4));
        let mut bits = BitReader::new(&[0b1010_0110, 0b0100_0010, 0b1000_0000], "test");
        assert_eq!([0; 5].map(|_: u8| bits.se()), [Ok(0), Ok(1), Ok(-1), Ok(2), Ok(-2)]);
        assert_eq!(BitReader::new(&[0; 3], "test").ue(), Err(Error::Truncated { what: "test" }));
        assert!(BitReader::new(&[0; 5], "test").ue().is_err());
        assert_eq!(BitReader::new(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff], "test").ue(), Ok(u32::MAX - 1));
    }
}
