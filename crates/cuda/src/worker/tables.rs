//! Tables that the CUDA kernel `devmem_crc32` reads, in its order.

use payload::crc;

/// Size in bytes of a block of the checksum: what a GPU's thread reads at once.
const BLOCK: u64 = 16;
/// Distance in bytes from a thread's block to its next one: the blocks of all threads of a warp.
const WARP: u64 = 32 * BLOCK;
/// Number of digits of 8 bits in a 64-bit length.
const PLACES: usize = 8;

/// Factor that moves a CRC back by one block, which the GPU's kernel puts in front: there are 2³² -
/// 1 powers of x.
pub(super) const BLOCK_LESS: u32 = crc::power(u32::MAX as u64 - BLOCK);

/// Computes the kernel's tables FEED, SKIP and POWER, as little-endian words.
pub(super) fn tables() -> Vec<u8> {
    let mut words = Vec::with_capacity(2 * 1024 + 256 * PLACES);
    for bytes in [4, WARP - BLOCK] {
        let power = crc::power(bytes);
        let word = |index: u32| (index % 256) << (index / 256 * 8);
        words.extend((0..1024).map(|index| crc::multiply(word(index), power)));
    }
    for place in 0..PLACES {
        let digit = crc::power(1 << (8 * place));
        let mut power = crc::power(0);
        for _ in 0..256 {
            words.push(power);
            power = crc::multiply(power, digit);
        }
    }
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}
