/*
 * What a GPU does to payload that lies in pieces: gathers it, holds it against a pattern, sums it up.
 *
 * In what C and CUDA C have in common, so that a C compiler makes functions of it that a CPU runs,
 * thread after thread (see fakecuda). For that, a kernel has at most one __syncthreads(), outside of
 * any branch, and what comes before it may be run twice.
 *
 * A warp takes a part, then the next that no warp has yet. The host cuts pieces into parts, long
 * enough that reading 24 bytes about one costs little, short enough that all warps have some. In a
 * part, the threads of a warp take blocks of 16 bytes side by side, and each thread begins four of
 * its loads before it needs the first: the memory is busy then, whatever the parts are like.
 *
 * Memory is read in aligned blocks of 16 bytes that hold at least one wanted byte, or by the wanted
 * byte, and so never outside of its allocation.
 */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifndef KERNEL
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)
#endif

#define THREADS 256 /* of a block */
#define LANES 32 /* threads of a warp */
#define BLOCK 16 /* bytes that a thread loads at once */
#define AHEAD 4 /* loads that it begins before it uses the first */
#define STRIDE (LANES * AHEAD)

/* payload::Descriptor, and no longer than the host makes it. */
struct part {
	u64 source;
	u64 destination; /* in the destination region, or in the stream */
	u32 len;
	u32 reserved;
};

__device__ u32 first_part(void)
{
	return blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
}

__device__ u32 next_part(u32 part)
{
	return part + gridDim.x * (THREADS / LANES);
}

__device__ u32 lane(void)
{
	return threadIdx.x % LANES;
}

/* How far behind an aligned block `at` is. */
__device__ u32 phase(const u8 *at)
{
	return (u32)(u64)at % BLOCK;
}

/* ---- gather ---- */

/* The 16 bytes that begin `bytes` after the first of 32: `low`, then `high`. */
__device__ uint4 shifted(uint4 low, uint4 high, u32 bytes)
{
	u32 bits = bytes % 4 * 8;
	u32 two = bytes & 8, one = bytes & 4;
	u32 a = two ? low.z : low.x;
	u32 b = two ? low.w : low.y;
	u32 c = two ? high.x : low.z;
	u32 d = two ? high.y : low.w;
	u32 e = two ? high.z : high.x;
	u32 f = two ? high.w : high.y;
	uint4 out;

	a = one ? b : a;
	b = one ? c : b;
	c = one ? d : c;
	d = one ? e : d;
	e = one ? f : e;
	out.x = __funnelshift_r(a, b, bits);
	out.y = __funnelshift_r(b, c, bits);
	out.z = __funnelshift_r(c, d, bits);
	out.w = __funnelshift_r(d, e, bits);
	return out;
}

/*
 * Copies `blocks` blocks to `to`, which is aligned. Thread by thread what a warp stores at once are
 * 512 bytes that begin a cache line: a part that begins within one leaves the first threads out.
 */
__device__ void copy_aligned(const u8 *from, u8 *to, u32 blocks)
{
	const uint4 *in = (const uint4 *)from;
	uint4 *out = (uint4 *)to;
	int at = (int)lane() - (int)((u32)(u64)to / BLOCK % 8);
	uint4 block[AHEAD];
	int i;

	for (; at < (int)blocks; at += STRIDE) {
#pragma unroll
		for (i = 0; i < AHEAD; i++)
			if ((u32)(at + i * LANES) < blocks)
				block[i] = in[at + i * LANES];
#pragma unroll
		for (i = 0; i < AHEAD; i++)
			if ((u32)(at + i * LANES) < blocks)
				out[at + i * LANES] = block[i];
	}
}

/*
 * The same, where `from` is not aligned. Both blocks that hold a thread's bytes are loaded by it; its
 * neighbour loads one of them too, and finds it in the first-level cache.
 */
__device__ void copy_shifted(const u8 *from, u8 *to, u32 blocks)
{
	u32 bytes = phase(from);
	const uint4 *in = (const uint4 *)(from - bytes);
	uint4 *out = (uint4 *)to;
	int at = (int)lane() - (int)((u32)(u64)to / BLOCK % 8);
	uint4 low[AHEAD], high[AHEAD];
	int i;

	for (; at < (int)blocks; at += STRIDE) {
#pragma unroll
		for (i = 0; i < AHEAD; i++)
			if ((u32)(at + i * LANES) < blocks) {
				low[i] = in[at + i * LANES];
				high[i] = in[at + i * LANES + 1];
			}
#pragma unroll
		for (i = 0; i < AHEAD; i++)
			if ((u32)(at + i * LANES) < blocks)
				out[at + i * LANES] = shifted(low[i], high[i], bytes);
	}
}

/*
 * What is before the first aligned block of the destination, and after the last, may share a block
 * with other parts: it is stored by the byte, one of them a thread. It is loaded first and stored
 * last, for nobody to wait on the way.
 */
__device__ void gather_part(const u8 *from, u8 *to, u32 len)
{
	u32 before = (BLOCK - phase(to)) % BLOCK;
	u32 blocks, after, index, edge;
	u8 byte = 0;

	before = before < len ? before : len;
	blocks = (len - before) / BLOCK;
	after = (len - before) % BLOCK;
	index = lane() % BLOCK;
	if (lane() < BLOCK) {
		edge = index < before;
	} else {
		edge = index < after;
		index += before + blocks * BLOCK;
	}
	if (edge)
		byte = from[index];
	if (phase(from + before))
		copy_shifted(from + before, to + before, blocks);
	else
		copy_aligned(from + before, to + before, blocks);
	if (edge)
		to[index] = byte;
}

KERNEL devmem_gather(const u8 *source, u8 *destination, const struct part *parts, u32 count)
{
	u32 i;

	for (i = first_part(); i < count; i = next_part(i))
		gather_part(source + parts[i].source, destination + parts[i].destination, parts[i].len);
}

/* ---- what validate and crc32 share: a part as the aligned blocks that hold it ---- */

struct blocks {
	const uint4 *first;
	u32 count;
	u32 before; /* bytes of the first that are not the part's */
	u32 after; /* bytes of the last that are not */
};

__device__ struct blocks blocks_of(const u8 *from, u32 len)
{
	struct blocks blocks;

	blocks.before = phase(from);
	blocks.first = (const uint4 *)(from - blocks.before);
	blocks.count = (blocks.before + len + BLOCK - 1) / BLOCK;
	blocks.after = blocks.count * BLOCK - blocks.before - len;
	return blocks;
}

/* A word of which the first `bytes` are all ones: any number, negative and above 4 too. */
__device__ u32 ones(int bytes)
{
	return bytes <= 0 ? 0 : bytes >= 4 ? 0xffffffff : (1u << bytes * 8) - 1;
}

/* Clears those bytes of a block that are not the part's. */
__device__ uint4 of_part(uint4 block, u32 at, struct blocks blocks)
{
	int from = at ? 0 : (int)blocks.before;
	int to = at + 1 < blocks.count ? BLOCK : BLOCK - (int)blocks.after;

	if (from > 0 || to < BLOCK) {
		block.x &= ones(to) & ~ones(from);
		block.y &= ones(to - 4) & ~ones(from - 4);
		block.z &= ones(to - 8) & ~ones(from - 8);
		block.w &= ones(to - 12) & ~ones(from - 12);
	}
	return block;
}

/* ---- validate ---- */

#define PERIODS 256 /* the longest period of a pattern */

/*
 * Where the table has the block that begins at a phase. Side by side, the threads of a warp look up
 * phases 16 apart: those would all lie in the same banks of the shared memory.
 */
__device__ u32 slot(u32 phase)
{
	return phase ^ phase / 16 % 8;
}

/* Four bytes of the pattern: byte i is (i + 1) % period, and a newline where that is 0. */
__device__ u32 four(u32 phase, u32 period)
{
	u32 i, value, word = 0;

	for (i = 0; i < 4; i++) {
		value = (phase + i + 1) % period;
		word |= (value ? value : '\n') << i * 8;
	}
	return word;
}

/* The first byte of a block that is not 0, and 16 without one. */
__device__ u32 first_of(uint4 block)
{
	if (block.x)
		return (__ffs(block.x) - 1) / 8;
	if (block.y)
		return (__ffs(block.y) - 1) / 8 + 4;
	if (block.z)
		return (__ffs(block.z) - 1) / 8 + 8;
	if (block.w)
		return (__ffs(block.w) - 1) / 8 + 12;
	return BLOCK;
}

/* The first byte of the part that is not the pattern's, of those that this thread looks at. */
__device__ u64 validate_part(const u8 *from, u64 place, u32 len, const uint4 *table, u32 period)
{
	struct blocks blocks = blocks_of(from, len);
	/* The phase of block 0, which begins before the part, and maybe before the stream. */
	u32 begin = ((u32)(place % period) + BLOCK * period - blocks.before) % period;
	u32 now = (begin + lane() * BLOCK) % period;
	u32 step = LANES * BLOCK % period;
	uint4 block[AHEAD], expected;
	u32 at, here, byte;
	int i;

	for (at = lane(); at < blocks.count; at += STRIDE) {
#pragma unroll
		for (i = 0; i < AHEAD; i++)
			if (at + i * LANES < blocks.count)
				block[i] = blocks.first[at + i * LANES];
#pragma unroll
		for (i = 0; i < AHEAD; i++) {
			here = at + i * LANES;
			if (here < blocks.count) {
				expected = table[slot(now)];
				block[i].x ^= expected.x;
				block[i].y ^= expected.y;
				block[i].z ^= expected.z;
				block[i].w ^= expected.w;
				byte = first_of(of_part(block[i], here, blocks));
				if (byte < BLOCK)
					return place + (u64)here * BLOCK + byte - blocks.before;
			}
			now += step;
			now = now < period ? now : now - period;
		}
	}
	return ~0ull;
}

/* `first` comes in as all ones, and leaves as the least stream offset of a bad byte. */
KERNEL devmem_validate(const u8 *source, const struct part *parts, u32 count, u32 period, u64 *first)
{
	__shared__ uint4 table[PERIODS];
	u64 bad, least = ~0ull;
	uint4 block;
	u32 i;

	block.x = four(threadIdx.x, period);
	block.y = four(threadIdx.x + 4, period);
	block.z = four(threadIdx.x + 8, period);
	block.w = four(threadIdx.x + 12, period);
	table[slot(threadIdx.x)] = block;
	__syncthreads();

	for (i = first_part(); i < count; i = next_part(i)) {
		bad = validate_part(source + parts[i].source, parts[i].destination, parts[i].len, table, period);
		least = bad < least ? bad : least;
	}
	if (~least)
		atomicMin(first, least);
}

/* ---- crc32 ---- */

#define POLYNOMIAL 0xedb88320 /* of zlib's CRC-32; bit 31 is x^0 */
#define TABLE 1024 /* words of a table that takes a word, byte by byte, to one */
#define SLOTS 1024 /* partial sums */

/* Where the host has put which table: all of them are linear, so the sum of entries is the entry of the sum. */
#define FEED 0 /* a word through four more bytes */
#define SKIP TABLE /* a sum through the bytes that the other threads of a warp take */
#define POWER (2 * TABLE) /* x^(8 * digit * 256^place), place by place */

__device__ u32 look_up(const u32 *table, u32 word)
{
	return table[word & 255] ^ table[256 + (word >> 8 & 255)] ^ table[512 + (word >> 16 & 255)] ^
	       table[768 + (word >> 24)];
}

/* a * b modulo the polynomial. */
__device__ u32 multiply(u32 a, u32 b)
{
	u32 product = 0;
	int i;

#pragma unroll
	for (i = 0; i < 32; i++) {
		product ^= b & (0 - (a >> 31));
		a <<= 1;
		b = b >> 1 ^ (POLYNOMIAL & (0 - (b & 1)));
	}
	return product;
}

/* The sum, with `bytes` bytes of 0 fed to it. */
__device__ u32 advance(u32 sum, u64 bytes, const u32 *power)
{
	for (; bytes; bytes >>= 8, power += 256)
		if (bytes & 255)
			sum = multiply(sum, power[bytes & 255]);
	return sum;
}

/*
 * This thread's share of a part's sum, `rest` bytes before the end of all: the sum of a stream is
 * that of its bytes, each with all others 0. Bytes of 0 before others change nothing; those after
 * them multiply. To keep the power positive where the last block has bytes of others, the whole is
 * multiplied by that of one block more, which the host takes back.
 */
__device__ u32 sum_part(const u8 *from, u32 len, u64 rest, const u32 *tables, const u32 *power)
{
	struct blocks blocks = blocks_of(from, len);
	uint4 block[AHEAD];
	u32 sum = 0, at, here, last = 0;
	int i;

	if (lane() >= blocks.count)
		return 0;
	for (at = lane(); at < blocks.count; at += STRIDE) {
#pragma unroll
		for (i = 0; i < AHEAD; i++)
			if (at + i * LANES < blocks.count)
				block[i] = blocks.first[at + i * LANES];
#pragma unroll
		for (i = 0; i < AHEAD; i++) {
			here = at + i * LANES;
			if (here < blocks.count) {
				block[i] = of_part(block[i], here, blocks);
				sum = look_up(tables + SKIP, sum);
				sum = look_up(tables + FEED, sum ^ block[i].x);
				sum = look_up(tables + FEED, sum ^ block[i].y);
				sum = look_up(tables + FEED, sum ^ block[i].z);
				sum = look_up(tables + FEED, sum ^ block[i].w);
				last = here;
			}
		}
	}
	return advance(sum, rest + BLOCK - blocks.after + (u64)(blocks.count - 1 - last) * BLOCK, power);
}

/* Adds to `slots` what, all of them added, is the sum of the stream that ends at `end`. */
KERNEL devmem_crc32(const u8 *source, const struct part *parts, u32 count, u64 end, const u32 *tables,
			 u32 *slots)
{
	__shared__ u32 near[2 * TABLE];
	u32 i, sum = 0;

	for (i = threadIdx.x; i < 2 * TABLE; i += THREADS)
		near[i] = tables[i];
	__syncthreads();

	for (i = first_part(); i < count; i = next_part(i))
		sum ^= sum_part(source + parts[i].source, parts[i].len,
				end - parts[i].destination - parts[i].len, near, tables + POWER);
	atomicXor(slots + (blockIdx.x * THREADS + threadIdx.x) % SLOTS, sum);
}
