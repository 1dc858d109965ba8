//! Which instructions the kernels use: found once at start, or chosen by name.

use std::fmt;
use std::str::FromStr;

/// An instruction set the kernels are built for. All give the same bits; they differ in speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust: the specification of every kernel.
    Scalar,
    /// AVX2, FMA and F16C: x86-64 from about 2013 on.
    Avx2,
    /// AVX-512 F, BW, VL, DQ and VNNI: x86-64 servers from about 2019 on, Zen 4 and later.
    Avx512,
}

impl Isa {
    pub const ALL: [Self; 3] = [Self::Scalar, Self::Avx2, Self::Avx512];

    /// The fastest one that this processor has.
    pub fn detect() -> Self {
        Self::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Self::Scalar)
    }

    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        let avx2 = || {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
        };
        match self {
            Self::Scalar => true,
            Self::Avx2 => avx2(),
            Self::Avx512 => {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_available(self) -> bool {
        self == Self::Scalar
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An instruction set that does not exist or that this processor lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidIsa {
    pub found: String,
}

impl fmt::Display for InvalidIsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instruction set `{}` is not available here: use one of", self.found)?;
        Isa::ALL.iter().filter(|isa| isa.is_available()).try_for_each(|isa| write!(f, " {isa}"))
    }
}

impl std::error::Error for InvalidIsa {}

impl FromStr for Isa {
    type Err = InvalidIsa;

    fn from_str(name: &str) -> Result<Self, InvalidIsa> {
        Self::ALL
            .into_iter()
            .find(|isa| isa.as_str() == name && isa.is_available())
            .ok_or_else(|| InvalidIsa { found: name.to_owned() })
    }
}

/// Compiles a plain function once for each instruction set and picks one at run time.
///
/// The body is ordinary Rust; the compiler vectorises it for each set. Because the body says every
/// rounding (`mul_add` is one rounding, `*` then `+` is two) all sets give the same bits.
macro_rules! stamped {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$doc])*
        $vis fn $name(isa: $crate::Isa, $($arg: $ty),*) {
            #[inline(always)]
            fn body($($arg: $ty),*) $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $ty),*) { body($($arg),*) }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
            fn avx512($($arg: $ty),*) { body($($arg),*) }

            match isa {
                // SAFETY: `Compute` holds only an instruction set that the processor has.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => body($($arg),*),
            }
        }
    };
}
pub(crate) use stamped;
