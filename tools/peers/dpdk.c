/* DPDK's side of `wirerate bench mempool` and `wirerate bench ring`.
 *
 * Compiled by that program against the installed libdpdk, started once, and told line by line on standard input
 * what to run; each answer is one line on standard output that begins with "= ", as EAL prints lines of its own.
 * Figures are cycles of the time stamp counter for each object:
 *
 *   churn CALLS CACHE KEEP BULK THREADS MS   each thread gets KEEP objects in bulks of BULK and puts them back so
 *   pair CALLS CACHE BULK MS                 one thread gets, another puts, a hand-over between them
 *   ring BULK KIND THREADS MS                an rte_ring, KIND spsc or mpmc; 1 thread: in and out; 2: one in, one out
 *   version                                  DPDK's version
 *
 * CALLS are "plain", rte_mempool_get_bulk and rte_mempool_put_bulk, which look up the lcore's cache each time, or
 * "cache", rte_mempool_generic_get and rte_mempool_generic_put with the lcore's cache looked up once, as in DPDK's
 * own test of the mempool. The bulks are compile-time constants, as they are there.
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

struct job {
	struct rte_mempool *pool;
	struct rte_ring *ring;
	unsigned keep, bulk;
	bool multi; /* a ring's ends */
	bool plain; /* the calls of a mempool */
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

/* Calls `f` with the bulk, a constant in each branch, so that it is one where `f` is inlined. */
#define BY_BULK(f, bulk, ...)                                                           \
	do {                                                                            \
		switch (bulk) {                                                         \
		case 1: f##_1(__VA_ARGS__); break;                                      \
		case 4: f##_4(__VA_ARGS__); break;                                      \
		case 8: f##_8(__VA_ARGS__); break;                                      \
		case 32: f##_32(__VA_ARGS__); break;                                    \
		case 64: f##_64(__VA_ARGS__); break;                                    \
		case 256: f##_256(__VA_ARGS__); break;                                  \
		}                                                                       \
	} while (0)
#define EACH_BULK(of) of(1) of(4) of(8) of(32) of(64) of(256)

static bool bulk_known(unsigned bulk)
{
	return bulk == 1 || bulk == 4 || bulk == 8 || bulk == 32 || bulk == 64 || bulk == 256;
}

/* By the calls that most programs use, or with the cache at hand; which, the compiler knows where this is inlined. */
static __rte_always_inline void get(struct rte_mempool *pool, struct rte_mempool_cache *cache, void **to,
				    unsigned bulk, bool plain)
{
	int failed = plain ? rte_mempool_get_bulk(pool, to, bulk) : rte_mempool_generic_get(pool, to, bulk, cache);

	if (unlikely(failed != 0))
		rte_exit(1, "the mempool ran dry\n");
}

static __rte_always_inline void put(struct rte_mempool *pool, struct rte_mempool_cache *cache, void **from,
				    unsigned bulk, bool plain)
{
	if (plain)
		rte_mempool_put_bulk(pool, from, bulk);
	else
		rte_mempool_generic_put(pool, from, bulk, cache);
}

/* Turns: get all, put all. */
static __rte_always_inline void turns_of(struct job *job, unsigned turns, unsigned bulk, bool plain)
{
	struct rte_mempool_cache *cache = rte_mempool_default_cache(job->pool, rte_lcore_id());
	void **table = *job->table;
	unsigned at;

	for (unsigned i = 0; i < turns; i++) {
		for (at = 0; at < job->keep; at += bulk)
			get(job->pool, cache, &table[at], bulk, plain);
		for (at = 0; at < job->keep; at += bulk)
			put(job->pool, cache, &table[at], bulk, plain);
	}
}

#define TURNS(n)                                                                        \
	static __rte_noinline void plain_##n(struct job *job, unsigned turns)           \
	{                                                                               \
		turns_of(job, turns, n, true);                                          \
	}                                                                               \
	static __rte_noinline void cache_##n(struct job *job, unsigned turns)           \
	{                                                                               \
		turns_of(job, turns, n, false);                                         \
	}
EACH_BULK(TURNS)

static void churn_by(struct job *job, unsigned turns)
{
	if (job->plain)
		BY_BULK(plain, job->bulk, job, turns);
	else
		BY_BULK(cache, job->bulk, job, turns);
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
		job->objects += (uint64_t)turns * job->keep;
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

static __rte_always_inline void getter_of(struct job *job, unsigned bulk, bool plain)
{
	struct rte_mempool_cache *cache = rte_mempool_default_cache(job->pool, rte_lcore_id());
	uint64_t at = 0, read = 0, begun;
	unsigned bulks = 0;

	start_together();
	begun = rte_rdtsc();
	for (;;) {
		if (at - read + bulk > CIRCLE) {
			read = __atomic_load_n(&circle.read, __ATOMIC_ACQUIRE);
			if (at - read + bulk > CIRCLE) {
				rte_pause();
				continue;
			}
		}
		get(job->pool, cache, &circle.places[at % CIRCLE], bulk, plain);
		at += bulk;
		__atomic_store_n(&circle.written, at, __ATOMIC_RELEASE);
		if (++bulks % 64 == 0 && rte_rdtsc() - begun >= job->cycles)
			break;
	}
	__atomic_store_n(&circle.over, true, __ATOMIC_RELEASE);
	job->took = rte_rdtsc() - begun;
	job->objects = at;
}

static __rte_always_inline void putter_of(struct job *job, unsigned bulk, bool plain)
{
	struct rte_mempool_cache *cache = rte_mempool_default_cache(job->pool, rte_lcore_id());
	uint64_t at = 0, written = 0;

	start_together();
	for (;;) {
		if (at == written) {
			bool over = __atomic_load_n(&circle.over, __ATOMIC_ACQUIRE);
			written = __atomic_load_n(&circle.written, __ATOMIC_ACQUIRE);
			if (at == written) {
				if (over)
					return;
				rte_pause();
				continue;
			}
		}
		put(job->pool, cache, &circle.places[at % CIRCLE], bulk, plain);
		at += bulk;
		__atomic_store_n(&circle.read, at, __ATOMIC_RELEASE);
	}
}

#define PAIR(n)                                                                         \
	static __rte_noinline void plain_getter_##n(struct job *job)                    \
	{                                                                               \
		getter_of(job, n, true);                                                \
	}                                                                               \
	static __rte_noinline void plain_putter_##n(struct job *job)                    \
	{                                                                               \
		putter_of(job, n, true);                                                \
	}                                                                               \
	static __rte_noinline void cache_getter_##n(struct job *job)                    \
	{                                                                               \
		getter_of(job, n, false);                                               \
	}                                                                               \
	static __rte_noinline void cache_putter_##n(struct job *job)                    \
	{                                                                               \
		putter_of(job, n, false);                                               \
	}
EACH_BULK(PAIR)

static int getter(void *arg)
{
	struct job *job = arg;

	if (job->plain)
		BY_BULK(plain_getter, job->bulk, job);
	else
		BY_BULK(cache_getter, job->bulk, job);
	return 0;
}

static int putter(void *arg)
{
	struct job *job = arg;

	if (job->plain)
		BY_BULK(plain_putter, job->bulk, job);
	else
		BY_BULK(cache_putter, job->bulk, job);
	return 0;
}

static __rte_always_inline unsigned enqueue(struct rte_ring *ring, void **table, unsigned bulk, bool multi)
{
	return multi ? rte_ring_mp_enqueue_bulk(ring, table, bulk, NULL)
		     : rte_ring_sp_enqueue_bulk(ring, table, bulk, NULL);
}

static __rte_always_inline unsigned dequeue(struct rte_ring *ring, void **table, unsigned bulk, bool multi)
{
	return multi ? rte_ring_mc_dequeue_bulk(ring, table, bulk, NULL)
		     : rte_ring_sc_dequeue_bulk(ring, table, bulk, NULL);
}

static __rte_always_inline void alone_of(struct job *job, unsigned bulk, bool multi)
{
	void **table = *job->table;
	uint64_t begun = rte_rdtsc(), now;

	do {
		for (unsigned i = 0; i < 1024; i++) {
			unsigned in = enqueue(job->ring, table, bulk, multi);
			unsigned out = dequeue(job->ring, table, bulk, multi);

			if (unlikely(in != bulk || out != bulk))
				rte_exit(1, "the ring lost objects\n");
		}
		job->objects += 1024ull * bulk;
		now = rte_rdtsc();
	} while (now - begun < job->cycles);
	job->took = now - begun;
}

static bool ring_over;

static __rte_always_inline void in_of(struct job *job, unsigned bulk, bool multi)
{
	void **table = *job->table;
	unsigned bulks = 0;
	uint64_t objects = 0, begun;

	start_together();
	begun = rte_rdtsc();
	for (;;) {
		unsigned in = enqueue(job->ring, table, bulk, multi);

		if (in == 0)
			rte_pause();
		objects += in;
		if (++bulks % 64 == 0 && rte_rdtsc() - begun >= job->cycles)
			break;
	}
	job->took = rte_rdtsc() - begun;
	job->objects = objects;
	__atomic_store_n(&ring_over, true, __ATOMIC_RELEASE);
}

static __rte_always_inline void out_of(struct job *job, unsigned bulk, bool multi)
{
	void **table = *job->table;

	start_together();
	for (;;) {
		bool over = __atomic_load_n(&ring_over, __ATOMIC_ACQUIRE);

		if (dequeue(job->ring, table, bulk, multi) == 0) {
			if (over)
				return;
			rte_pause();
		}
	}
}

#define RING_BY(what, n)                                                                \
	static __rte_noinline void single_##what##_##n(struct job *job)                 \
	{                                                                               \
		what##_of(job, n, false);                                               \
	}                                                                               \
	static __rte_noinline void multi_##what##_##n(struct job *job)                  \
	{                                                                               \
		what##_of(job, n, true);                                                \
	}
#define RINGS(n) RING_BY(alone, n) RING_BY(in, n) RING_BY(out, n)
EACH_BULK(RINGS)

#define RING_JOB(what)                                                                  \
	static int ring_##what(void *arg)                                               \
	{                                                                               \
		struct job *job = arg;                                                  \
											\
		if (job->multi)                                                         \
			BY_BULK(multi_##what, job->bulk, job);                          \
		else                                                                    \
			BY_BULK(single_##what, job->bulk, job);                         \
		return 0;                                                               \
	}
RING_JOB(alone)
RING_JOB(in)
RING_JOB(out)

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

/* Runs `first` here and, if there is one, `second` on the worker; objects for each cycle, both together. */
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

		if (sscanf(line, "churn %7s %u %u %u %u %u", kind, &cache, &keep, &bulk, &threads, &ms) == 6 &&
		    bulk_known(bulk) && keep <= MOST_KEPT && keep >= bulk && keep % bulk == 0 && threads >= 1 &&
		    threads <= MOST_THREADS) {
			what.pool = pool_with(cache);
			what.plain = strcmp(kind, "plain") == 0;
			what.keep = keep;
			what.bulk = bulk;
			printf("= %.4f\n", threads / run(churn, threads == 2 ? churn : NULL, &what, ms));
		} else if (sscanf(line, "pair %7s %u %u %u", kind, &cache, &bulk, &ms) == 4 && bulk_known(bulk)) {
			what.pool = pool_with(cache);
			what.plain = strcmp(kind, "plain") == 0;
			what.bulk = bulk;
			memset(&circle, 0, sizeof(circle));
			printf("= %.4f\n", 1 / run(getter, putter, &what, ms));
		} else if (sscanf(line, "ring %u %7s %u %u", &bulk, kind, &threads, &ms) == 4 && bulk_known(bulk) &&
			   threads >= 1 && threads <= 2) {
			what.ring = rte_ring_lookup("ring");
			if (what.ring == NULL)
				what.ring = rte_ring_create("ring", RING, SOCKET_ID_ANY, 0);
			if (what.ring == NULL)
				rte_exit(1, "no ring: %s\n", rte_strerror(rte_errno));
			what.bulk = bulk;
			what.multi = strcmp(kind, "mpmc") == 0;
			ring_over = false;
			if (threads == 1)
				printf("= %.4f\n", 1 / run(ring_alone, NULL, &what, ms));
			else
				printf("= %.4f\n", 1 / run(ring_in, ring_out, &what, ms));
		} else if (strncmp(line, "version", 7) == 0) {
			printf("= %s\n", rte_version());
		} else {
			printf("= error: not understood: %s", line);
		}
		fflush(stdout);
	}
	return 0;
}
