//! CRC-32 of a stream from the CRCs of its parts.
//!
//! A CRC is the remainder of a polynomial over two elements, here with the bits of the number
//! reversed: bit 31 stands for x⁰. Without the ones before and after, zlib's CRC is linear: the sum
//! (by exclusive or) of the parts' CRCs, each times x for every bit that follows the part.

/// Polynomial of Ethernet, gzip and zlib, without x³², reversed.
pub const POLYNOMIAL: u32 = 0xedb8_8320;

/// The polynomial x⁰, in the reversed order of bits.
const ONE: u32 = 1 << 31;

/// Product of two polynomials modulo the CRC's polynomial.
pub const fn multiply(a: u32, b: u32) -> u32 {
    let (mut product, mut shifted, mut bit) = (0, b, ONE);
    while bit != 0 {
        if a & bit != 0 {
            product ^= shifted;
        }
        // Multiply by x.
        shifted = (shifted >> 1) ^ (POLYNOMIAL & (shifted & 1).wrapping_neg());
        bit >>= 1;
    }
    product
}

/// Power x^(8 · `bytes`) modulo the CRC's polynomial: the factor of a CRC that `bytes` bytes
/// follow.
pub const fn power(bytes: u64) -> u32 {
    // The squares x⁸, x¹⁶, x³² …: multiply those whose bits are set in `bytes`.
    let (mut power, mut square, mut bits) = (ONE, ONE >> 8, bytes);
    while bits != 0 {
        if bits & 1 != 0 {
            power = multiply(power, square);
        }
        square = multiply(square, square);
        bits >>= 1;
    }
    power
}

/// CRC, without ones before and after, of bytes that are followed by `bytes` zeros.
pub const fn advance(sum: u32, bytes: u64) -> u32 {
    multiply(sum, power(bytes))
}

/// CRC-32 of `len` bytes whose CRC without ones before and after is `sum`.
pub const fn complete(sum: u32, len: u64) -> u32 {
    !(sum ^ advance(!0, len))
}

/// CRC-32 of two consecutive parts of a stream, the second of `len` bytes.
pub const fn combine(first: u32, second: u32, len: u64) -> u32 {
    advance(first, len) ^ second
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// CRC computed bit by bit, without ones before and after.
    fn bitwise_crc(bytes: &[u8]) -> u32 {
        bytes.iter().fold(0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| {
                (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg())
            })
        })
    }

    #[test]
    fn the_check_value_is_the_standard_one() {
        let digits = b"123456789";
        assert_eq!(complete(bitwise_crc(digits), 9), 0xcbf4_3926);
        assert_eq!(complete(0, 0), 0);
        assert_eq!(power(0), ONE);
        assert_eq!(power(4), POLYNOMIAL, "x to the 32, less the polynomial");
        // The multiplicative group has 2³² - 1 elements.
        assert_eq!(power(u64::from(u32::MAX)), ONE);
    }

    proptest! {
        #[test]
        fn checksums_of_parts_combine(
            bytes in prop::collection::vec(any::<u8>(), 0..3000),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let whole = crc32fast::hash(&bytes);
            prop_assert_eq!(complete(bitwise_crc(&bytes), bytes.len() as u64), whole);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let (mut combined, mut linear) = (0, 0);
            for cut in cuts.windows(2) {
                let part = &bytes[cut[0]..cut[1]];
                combined = combine(combined, crc32fast::hash(part), part.len() as u64);
                linear ^= advance(bitwise_crc(part), (bytes.len() - cut[1]) as u64);
            }
            prop_assert_eq!(combined, whole);
            prop_assert_eq!(complete(linear, bytes.len() as u64), whole);
        }

        #[test]
        fn remainders_multiply_as_numbers_do(a: u32, b: u32, c: u32, n: u32, m: u32) {
            prop_assert_eq!(multiply(a, b), multiply(b, a));
            prop_assert_eq!(multiply(multiply(a, b), c), multiply(a, multiply(b, c)));
            prop_assert_eq!(multiply(a, b ^ c), multiply(a, b) ^ multiply(a, c));
            prop_assert_eq!(multiply(a, power(0)), a);
            let sum = u64::from(n) + u64::from(m);
            prop_assert_eq!(multiply(power(n.into()), power(m.into())), power(sum));
        }

        #[test]
        fn checksums_combine_as_by_crc32fast(first: u32, second: u32, len: u64) {
            let mut hasher = crc32fast::Hasher::new_with_initial_len(first, 1);
            hasher.combine(&crc32fast::Hasher::new_with_initial_len(second, len));
            prop_assert_eq!(combine(first, second, len), hasher.finalize());
        }
    }
}
