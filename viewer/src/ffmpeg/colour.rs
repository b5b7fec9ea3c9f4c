//! How the samples of a decoded picture become RGB.

/// The coefficients that turn YCbCr into RGB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matrix {
    /// ITU-R BT.601: standard definition.
    Bt601,
    /// ITU-R BT.709: high definition.
    Bt709,
}

/// How the samples of a picture are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour {
    /// The coefficients of the conversion.
    pub matrix: Matrix,
    /// Whether luma spans 0 to 255 rather than 16 to 235. Only with [`Matrix::Bt601`]: others are converted to the limited range.
    pub full_range: bool,
}
