/*
 * The GPU's kernels as functions that a CPU runs, thread after thread, block after block.
 *
 * A barrier can't wait here for threads that have not begun. So a block with one is run twice: the
 * first time each thread ends at the barrier, the second time it goes on. For that a kernel has but
 * one, and what is before it may be done twice.
 */
#include <stdint.h>

struct index {
	uint32_t x;
};

typedef struct {
	uint32_t x, y, z, w;
} __attribute__((aligned(16))) uint4;

static struct index threadIdx, blockIdx, gridDim;
static int at_barrier, past_barrier;

#define KERNEL static void
#define __device__ static inline
#define __shared__ static
#define __syncthreads() \
	do { \
		if (!past_barrier) { \
			at_barrier = 1; \
			return; \
		} \
	} while (0)

static inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t bits)
{
	return (uint32_t)(((uint64_t)high << 32 | low) >> bits % 32);
}

static inline int __ffs(int word)
{
	return __builtin_ffs(word);
}

static inline void atomicMin(unsigned long long *to, unsigned long long value)
{
	if (value < *to)
		*to = value;
}

static inline void atomicXor(uint32_t *to, uint32_t value)
{
	*to ^= value;
}

#include "../../../crates/cuda/src/kernels/payload.cu"

#define ARGUMENT(type, i) (*(type *)arguments[i])

static void thread(int kernel, void **arguments)
{
	switch (kernel) {
	case 0:
		devmem_gather(ARGUMENT(const u8 *, 0), ARGUMENT(u8 *, 1), ARGUMENT(const struct part *, 2),
			      ARGUMENT(u32, 3));
		break;
	case 1:
		devmem_validate(ARGUMENT(const u8 *, 0), ARGUMENT(const struct part *, 1), ARGUMENT(u32, 2),
				ARGUMENT(u32, 3), ARGUMENT(u64 *, 4));
		break;
	case 2:
		devmem_crc32(ARGUMENT(const u8 *, 0), ARGUMENT(const struct part *, 1), ARGUMENT(u32, 2),
			     ARGUMENT(u64, 3), ARGUMENT(const u32 *, 4), ARGUMENT(u32 *, 5));
		break;
	}
}

static void block(int kernel, uint32_t threads, void **arguments)
{
	for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++)
		thread(kernel, arguments);
}

/* One at a time: the indices and what threads of a block share are here once. */
void fakecuda_run(int kernel, uint32_t blocks, uint32_t threads, void **arguments)
{
	gridDim.x = blocks;
	for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
		at_barrier = past_barrier = 0;
		block(kernel, threads, arguments);
		past_barrier = at_barrier;
		if (past_barrier)
			block(kernel, threads, arguments);
	}
}
