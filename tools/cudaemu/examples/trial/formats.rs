//! Number formats and pseudo-random numbers.

pub fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let (sign, magnitude) = ((bits >> 16 & 0x8000) as u16, bits & 0x7fff_ffff);
    if magnitude < 0x3880_0000 {
        return sign | (value.abs() * 16_777_216.0).round_ties_even() as u16; // subnormal
    }
    let rebased = magnitude - 0x3800_0000;
    sign | ((rebased + 0xfff + (rebased >> 13 & 1)) >> 13) as u16
}

pub fn f16_to_f32(half: u16) -> f32 {
    let (exponent, mantissa) = ((half >> 10 & 31) as i32, (half & 1023) as f32);
    let magnitude = match exponent {
        0 => mantissa * 2f32.powi(-24),
        _ => (1.0 + mantissa / 1024.0) * 2f32.powi(exponent - 15),
    };
    if half >> 15 == 1 {
        -magnitude
    } else {
        magnitude
    }
}

pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

pub fn bf16_to_f32(half: u16) -> f32 {
    f32::from_bits((half as u32) << 16)
}

/// What a matrix instruction multiplies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Format {
    F16,
    Bf16,
    Tf32,
    F32,
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
            Format::Tf32 => "tf32",
            Format::F32 => "f32",
        }
    }

    /// The format's bits of a number that it holds exactly.
    pub fn encode(self, value: f32) -> u32 {
        match self {
            Format::F16 => f32_to_f16(value) as u32,
            Format::Bf16 => f32_to_bf16(value) as u32,
            Format::Tf32 | Format::F32 => value.to_bits(),
        }
    }

    pub fn decode(self, bits: u32) -> f32 {
        match self {
            Format::F16 => f16_to_f32(bits as u16),
            Format::Bf16 => bf16_to_f32(bits as u16),
            Format::Tf32 | Format::F32 => f32::from_bits(bits),
        }
    }

    /// The nearest number that the format holds; tf32's are cut, which needs no rounding mode.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Format::Tf32 => f32::from_bits(value.to_bits() & !0x1fff),
            _ => self.decode(self.encode(value)),
        }
    }

    /// Elements in a 32-bit register.
    pub fn per_register(self) -> usize {
        match self {
            Format::F16 | Format::Bf16 => 2,
            Format::Tf32 | Format::F32 => 1,
        }
    }
}

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 11
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    /// In -1..1.
    pub fn unit(&mut self) -> f64 {
        self.bits() as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub fn units(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.unit() as f32).collect()
    }

    /// A multiple of 1/8 in -2..=2: sums of their products are exact in any order.
    pub fn eighths(&mut self) -> f32 {
        self.below(33) as f32 / 8.0 - 2.0
    }

    /// A number of the format, of exponents -6 to 3; one in 16 is zero.
    pub fn wide(&mut self, format: Format) -> f32 {
        if self.below(16) == 0 {
            return 0.0;
        }
        let sign = if self.below(2) == 0 { 1.0 } else { -1.0 };
        let exponent = self.below(10) as i32 - 6;
        format.round(sign * (1.0 + self.unit().abs() as f32) * 2f32.powi(exponent))
    }
}
