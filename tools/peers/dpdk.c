/* DPDK's side of `wirerate bench mempool` and `wirerate bench ring`.
 *
 * Compiled by that program against the installed libdpdk, started once, and told line by line on standard input
 * what to run; each answer is one line on standard output, cycles of the time stamp counter for each object:
 *
 *   churn CACHE KEEP BULK THREADS MS   each thread gets KEEP objects in bulks of BULK and puts them back so
 *   pair CACHE BULK MS                 one thread gets, another puts, a hand-over between them
 *   ring BULK KIND THREADS MS          an rte_ring, KIND spsc or mpmc; 1 thread: in and out; 2: one in, one out
 *   version                            DPDK's version, and the size of pages
 *
 * The bulks are compile-time constants where a switch below has them, as in DPDK's own test of the mempool.
 * The loops here and those of wirerate (tools/src/contest) do the same work step by step.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_mempool.h>
#include <rte_pause.h>
#include <rte_ring.h>
#include <rte_version.h>

#define OBJECT 2048
#define MOST_KEPT 32768
#define MOST_THREADS 2
#define COUNT (MOST_THREADS * (MOST_KEPT + 2 * 512) - 1)
#define RING 4096
#define MOST_BULK 256

struct job {
	struct rte_mempool *pool;
	struct rte_ring *ring;
	unsigned keep, bulk;
	bool multi;
	uint64_t cycles; /* how long to run */
	void *(*table)[MOST_KEPT];
	uint64_t objects, took; /* the result */
} __rte_cache_aligned;

static struct job jobs[MOST_THREADS];
static unsigned running; /* threads that have still to reach the start */

static void start_together(void)
{
	__atomic_sub_fetch(&running, 1, __ATOMIC_ACQ_REL);
	while (__atomic_load_n(&running, __ATOMIC_ACQUIRE) != 0)
		rte_pause();
}

/* One turn: get all, put all. */
static __rte_always_inline void turn(struct job *job, struct rte_mempool_cache *cache, unsigned bulk)
{
	void **table = *job->table;
	unsigned at;

	for (at = 0; at + bulk <= job->keep; at += bulk)
		if (unlikely(rte_mempool_generic_get(job->pool, &table[at], bulk, cache) != 0))
			rte_exit(1, "the mempool ran dry\n");
	for (at = 0; at + bulk <= job->keep; at += bulk)
		rte_mempool_generic_put(job->pool, &table[at], bulk, cache);
}

#define CHURN(n)                                                                        \
	static __rte_noinline void churn_##n(struct job *job, unsigned turns)           \
	{                                                                               \
		struct rte_mempool_cache *cache;                                        \
		cache = rte_mempool_default_cache(job->pool, rte_lcore_id());           \
		for (unsigned i = 0; i < turns; i++)                                    \
			turn(job, cache, n);                                            \
	}
CHURN(1)
CHURN(4)
CHURN(8)
CHURN(32)
CHURN(64)
CHURN(256)

static void churn_by(struct job *job, unsigned turns)
{
	switch (job->bulk) {
	case 1: return churn_1(job, turns);
	case 4: return churn_4(job, turns);
	case 8: return churn_8(job, turns);
	case 32: return churn_32(job, turns);
	case 64: return churn_64(job, turns);
	case 256: return churn_256(job, turns);
	default: rte_exit(1, "no loop for bulks of %u\n", job->bulk);
	}
}

static int churn(void *arg)
{
	struct job *job = arg;
	unsigned turns = RTE_MAX(1u, 16384 / job->keep);
	uint64_t begun, now;

	churn_by(job, turns);
	start_together();
	begun = rte_rdtsc();
	do {
		churn_by(job, turns);
		job->objects += (uint64_t)turns * (job->keep / job->bulk * job->bulk);
		now = rte_rdtsc();
	} while (now - begun < job->cycles);
	job->took = now - begun;
	return 0;
}

/* The hand-over of `pair`: a circle of addresses with one writer and one reader, who keep what they last saw of
 * the other. The same in C and in Rust, so that it weighs the same on both sides. */
#define CIRCLE 1024
static struct {
	uint64_t written __rte_cache_aligned;
	uint64_t read __rte_cache_aligned;
	bool over;
	void *places[CIRCLE] __rte_cache_aligned;
} circle;

static int getter(void *arg)
{
	struct job *job = arg;
	struct rte_mempool_cache *cache = rte_mempool_default_cache(job->pool, rte_lcore_id());
	uint64_t at = 0, read = 0, begun;
	unsigned bulk = job->bulk, spins = 0;

	start_together();
	begun = rte_rdtsc();
	for (;;) {
		void **to = &circle.places[at % CIRCLE];
		if (at - read + bulk > CIRCLE) {
			read = __atomic_load_n(&circle.read, __ATOMIC_ACQUIRE);
			if (at - read + bulk > CIRCLE) {
				rte_pause();
				continue;
			}
		}
		if (unlikely(rte_mempool_generic_get(job->pool, to, bulk, cache) != 0))
			rte_exit(1, "the mempool ran dry\n");
		at += bulk;
		__atomic_store_n(&circle.written, at, __ATOMIC_RELEASE);
		if (++spins % 64 == 0 && rte_rdtsc() - begun >= job->cycles)
			break;
	}
	__atomic_store_n(&circle.over, true, __ATOMIC_RELEASE);
	job->took = rte_rdtsc() - begun;
	job->objects = at;
	return 0;
}

static int putter(void *arg)
{
	struct job *job = arg;
	struct rte_mempool_cache *cache = rte_mempool_default_cache(job->pool, rte_lcore_id());
	uint64_t at = 0, written = 0;
	unsigned bulk = job->bulk;

	start_together();
	for (;;) {
		if (at == written) {
			bool over = __atomic_load_n(&circle.over, __ATOMIC_ACQUIRE);
			written = __atomic_load_n(&circle.written, __ATOMIC_ACQUIRE);
			if (at == written) {
				if (over)
					return 0;
				rte_pause();
				continue;
			}
		}
		rte_mempool_generic_put(job->pool, &circle.places[at % CIRCLE], bulk, cache);
		at += bulk;
		__atomic_store_n(&circle.read, at, __ATOMIC_RELEASE);
	}
}

static int ring_alone(void *arg)
{
	struct job *job = arg;
	void **table = *job->table;
	unsigned bulk = job->bulk;
	uint64_t begun, now;

	begun = rte_rdtsc();
	do {
		for (unsigned i = 0; i < 1024; i++) {
			unsigned in, out;
			if (job->multi) {
				in = rte_ring_mp_enqueue_bulk(job->ring, table, bulk, NULL);
				out = rte_ring_mc_dequeue_bulk(job->ring, table, bulk, NULL);
			} else {
				in = rte_ring_sp_enqueue_bulk(job->ring, table, bulk, NULL);
				out = rte_ring_sc_dequeue_bulk(job->ring, table, bulk, NULL);
			}
			if (unlikely(in != bulk || out != bulk))
				rte_exit(1, "the ring lost objects\n");
		}
		job->objects += 1024ull * bulk;
		now = rte_rdtsc();
	} while (now - begun < job->cycles);
	job->took = now - begun;
	return 0;
}

static bool ring_over;

static int ring_in(void *arg)
{
	struct job *job = arg;
	void **table = *job->table;
	unsigned bulk = job->bulk, spins = 0;
	uint64_t begun;

	start_together();
	begun = rte_rdtsc();
	for (;;) {
		unsigned in = job->multi ? rte_ring_mp_enqueue_bulk(job->ring, table, bulk, NULL)
					 : rte_ring_sp_enqueue_bulk(job->ring, table, bulk, NULL);
		if (in == 0)
			rte_pause();
		job->objects += in;
		if (++spins % 64 == 0 && rte_rdtsc() - begun >= job->cycles)
			break;
	}
	job->took = rte_rdtsc() - begun;
	__atomic_store_n(&ring_over, true, __ATOMIC_RELEASE);
	return 0;
}

static int ring_out(void *arg)
{
	struct job *job = arg;
	void **table = *job->table;
	unsigned bulk = job->bulk;

	start_together();
	for (;;) {
		bool over = __atomic_load_n(&ring_over, __ATOMIC_ACQUIRE);
		unsigned out = job->multi ? rte_ring_mc_dequeue_bulk(job->ring, table, bulk, NULL)
					  : rte_ring_sc_dequeue_bulk(job->ring, table, bulk, NULL);
		if (out == 0) {
			if (over)
				return 0;
			rte_pause();
		}
	}
}

static struct rte_mempool *pool_with(unsigned cache)
{
	char name[RTE_MEMPOOL_NAMESIZE];
	struct rte_mempool *pool;

	snprintf(name, sizeof(name), "cache%u", cache);
	pool = rte_mempool_lookup(name);
	if (pool == NULL)
		pool = rte_mempool_create(name, COUNT, OBJECT, cache, 0, NULL, NULL, NULL, NULL, SOCKET_ID_ANY, 0);
	if (pool == NULL)
		rte_exit(1, "no mempool: %s\n", rte_strerror(rte_errno));
	return pool;
}

/* Runs `first` here and, if there is one, `second` on the worker; cycles for each object and thread. */
static double run(lcore_function_t *first, lcore_function_t *second, const struct job *what, unsigned ms)
{
	unsigned worker = rte_get_next_lcore(-1, 1, 0);
	double rate = 0;

	running = second == NULL ? 1 : 2;
	for (unsigned i = 0; i < MOST_THREADS; i++) {
		void *(*table)[MOST_KEPT] = jobs[i].table;
		jobs[i] = *what;
		jobs[i].table = table;
		jobs[i].cycles = rte_get_tsc_hz() / 1000 * ms;
	}
	if (second != NULL && (worker == RTE_MAX_LCORE || rte_eal_remote_launch(second, &jobs[1], worker) != 0))
		rte_exit(1, "no second lcore\n");
	first(&jobs[0]);
	rte_eal_mp_wait_lcore();
	for (unsigned i = 0; i < MOST_THREADS; i++)
		if (jobs[i].took != 0)
			rate += (double)jobs[i].objects / jobs[i].took;
	return rate;
}

int main(int argc, char **argv)
{
	char line[256], kind[8];

	if (rte_eal_init(argc, argv) < 0)
		rte_exit(1, "rte_eal_init: %s\n", rte_strerror(rte_errno));
	for (unsigned i = 0; i < MOST_THREADS; i++) {
		jobs[i].table = aligned_alloc(RTE_CACHE_LINE_SIZE, sizeof(*jobs[i].table));
		if (jobs[i].table == NULL)
			rte_exit(1, "no memory\n");
		memset(jobs[i].table, 0, sizeof(*jobs[i].table));
	}
	while (fgets(line, sizeof(line), stdin) != NULL) {
		struct job what = { 0 };
		unsigned cache, keep, bulk, threads, ms;

		if (sscanf(line, "churn %u %u %u %u %u", &cache, &keep, &bulk, &threads, &ms) == 5 &&
		    keep <= MOST_KEPT && bulk >= 1 && bulk <= keep && threads >= 1 && threads <= MOST_THREADS) {
			what.pool = pool_with(cache);
			what.keep = keep;
			what.bulk = bulk;
			printf("%.4f\n", threads / run(churn, threads == 2 ? churn : NULL, &what, ms));
		} else if (sscanf(line, "pair %u %u %u", &cache, &bulk, &ms) == 3 && bulk >= 1 && bulk <= MOST_BULK &&
			   CIRCLE % bulk == 0) {
			what.pool = pool_with(cache);
			what.bulk = bulk;
			memset(&circle, 0, sizeof(circle));
			printf("%.4f\n", 1 / run(getter, putter, &what, ms));
		} else if (sscanf(line, "ring %u %7s %u %u", &bulk, kind, &threads, &ms) == 4 && bulk >= 1 &&
			   bulk <= MOST_BULK && threads >= 1 && threads <= MOST_THREADS) {
			what.ring = rte_ring_lookup("ring");
			if (what.ring == NULL)
				what.ring = rte_ring_create("ring", RING, SOCKET_ID_ANY, 0);
			if (what.ring == NULL)
				rte_exit(1, "no ring: %s\n", rte_strerror(rte_errno));
			what.bulk = bulk;
			what.multi = strcmp(kind, "mpmc") == 0;
			ring_over = false;
			if (threads == 1)
				printf("%.4f\n", 1 / run(ring_alone, NULL, &what, ms));
			else
				printf("%.4f\n", 1 / run(ring_in, ring_out, &what, ms));
		} else if (strncmp(line, "version", 7) == 0) {
			printf("%s, %s pages\n", rte_version(), rte_eal_has_hugepages() ? "huge" : "4 kB");
		} else {
			printf("error: not understood: %s", line);
		}
		fflush(stdout);
	}
	return 0;
}
