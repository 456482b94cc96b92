/* DPDK's side of `wirerate bench virtio --sides`.
 *
 * Compiled by that program against the installed libdpdk, started once for each form of rings, and told line by line
 * on standard input what to run; each answer is one line on standard output that begins with "= ", as EAL prints
 * lines of its own:
 *
 *   open VHOST VIRTIO      makes net_vhost0 and net_virtio_user0 with these devargs, connected to each other
 *   run BURST MS           cycles of the time stamp counter for each packet of: the driver's sending, the device's
 *                          receiving, the device's sending, the driver's receiving
 *   version                DPDK's version
 *
 * One thread does it all, a step at a time, and looks at the counter before and after each step: a few bursts go in
 * on one side and come out on the other. What comes out is freed, and what goes in is made, outside of the steps.
 * The slowest 5 % of the steps, which others have interrupted, are left out.
 * The loop here and that of wirerate (tools/src/bench/virtio/sides.rs) do the same work step by step.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_version.h>

#define RING 256
#define MOST 128 /* packets in a step */
#define LENGTH 64
#define VAIN 100000 /* calls without a packet */
#define STEPS 65536 /* of each kind in a run */

static struct rte_mempool *pool;
static uint16_t vhost = RTE_MAX_ETHPORTS, driver = RTE_MAX_ETHPORTS;
static uint64_t steps[4][STEPS];

static const char *make(const char *name, const char *args, uint16_t *port)
{
	struct rte_eth_conf conf;

	memset(&conf, 0, sizeof(conf));
	if (rte_eal_hotplug_add("vdev", name, args) != 0 || rte_eth_dev_get_port_by_name(name, port) != 0)
		return "no device";
	if (rte_eth_dev_configure(*port, 1, 1, &conf) != 0)
		return "it cannot be configured";
	if (rte_eth_rx_queue_setup(*port, 0, RING, SOCKET_ID_ANY, NULL, pool) != 0 ||
	    rte_eth_tx_queue_setup(*port, 0, RING, SOCKET_ID_ANY, NULL) != 0)
		return "it has no queues";
	return rte_eth_dev_start(*port) == 0 ? NULL : "it does not start";
}

/* Makes `count` packets. */
static bool fill(struct rte_mbuf **packets, unsigned count)
{
	if (rte_pktmbuf_alloc_bulk(pool, packets, count) != 0)
		return false;
	for (unsigned i = 0; i < count; i++) {
		char *data = rte_pktmbuf_append(packets[i], LENGTH);

		if (data == NULL)
			return false;
		memset(data, 0x5a, LENGTH);
	}
	return true;
}

/* Sends all packets in bursts; the cycles that it took, or 0 when they are not taken. */
static uint64_t send_all(uint16_t port, struct rte_mbuf **packets, unsigned count, unsigned burst)
{
	uint64_t begun = rte_rdtsc();
	unsigned at = 0, vain = 0;

	while (at < count) {
		unsigned sent = rte_eth_tx_burst(port, 0, &packets[at], RTE_MIN(burst, count - at));

		at += sent;
		if (unlikely(sent == 0) && ++vain > VAIN)
			return 0;
	}
	return rte_rdtsc() - begun;
}

/* Receives as many packets, likewise. */
static uint64_t receive_all(uint16_t port, struct rte_mbuf **packets, unsigned count, unsigned burst)
{
	uint64_t begun = rte_rdtsc();
	unsigned at = 0, vain = 0;

	while (at < count) {
		unsigned got = rte_eth_rx_burst(port, 0, &packets[at], RTE_MIN(burst, count - at));

		at += got;
		if (unlikely(got == 0) && ++vain > VAIN)
			return 0;
	}
	return rte_rdtsc() - begun;
}

/* One step there and one back; false when a step fails. */
static bool turn(unsigned burst, unsigned count, unsigned index)
{
	struct rte_mbuf *packets[MOST];
	const uint16_t ports[2][2] = { { driver, vhost }, { vhost, driver } };

	for (unsigned way = 0; way < 2; way++) {
		uint64_t sending, receiving;

		if (!fill(packets, count))
			return false;
		sending = send_all(ports[way][0], packets, count, burst);
		receiving = sending == 0 ? 0 : receive_all(ports[way][1], packets, count, burst);
		if (receiving == 0)
			return false;
		rte_pktmbuf_free_bulk(packets, count);
		steps[2 * way][index] = sending;
		steps[2 * way + 1][index] = receiving;
	}
	return true;
}

static int compare(const void *a, const void *b)
{
	const uint64_t *one = a, *other = b;

	return *one < *other ? -1 : *one > *other;
}

/* The mean of the fastest 95 %, for each packet. */
static double fastest(uint64_t *of, unsigned turns, unsigned count)
{
	unsigned kept = RTE_MAX(1u, turns - turns / 20);
	uint64_t sum = 0;

	qsort(of, turns, sizeof(*of), compare);
	for (unsigned i = 0; i < kept; i++)
		sum += of[i];
	return (double)sum / kept / count;
}

int main(int argc, char **argv)
{
	char line[2048], first[512], second[1024];

	if (rte_eal_init(argc, argv) < 0)
		rte_exit(1, "rte_eal_init: %s\n", rte_strerror(rte_errno));
	pool = rte_pktmbuf_pool_create("mbufs", 16384, 250, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
	if (pool == NULL)
		rte_exit(1, "no mbufs: %s\n", rte_strerror(rte_errno));
	while (fgets(line, sizeof(line), stdin) != NULL) {
		unsigned burst, ms;

		if (sscanf(line, "open %511s %1023s", first, second) == 2) {
			const char *error = make("net_vhost0", first, &vhost);

			/* The driver asks the device, which answers from a thread of its own. */
			if (error == NULL)
				error = make("net_virtio_user0", second, &driver);
			if (error == NULL)
				printf("= done\n");
			else
				printf("= error: %s\n", error);
		} else if (sscanf(line, "run %u %u", &burst, &ms) == 2 && burst >= 1 && burst <= MOST) {
			unsigned count = MOST / burst * burst, turns = 0;
			uint64_t end = rte_rdtsc() + rte_get_tsc_hz() / 1000 * ms;
			bool well = true;

			/* The first turns warm up. */
			for (unsigned i = 0; i < 1000 && well; i++)
				well = turn(burst, count, 0);
			while (well && turns < STEPS && (turns == 0 || rte_rdtsc() < end))
				well = turn(burst, count, turns++);
			if (well)
				printf("= %.4f %.4f %.4f %.4f\n", fastest(steps[0], turns, count),
				       fastest(steps[1], turns, count), fastest(steps[2], turns, count),
				       fastest(steps[3], turns, count));
			else
				printf("= error: packets do not arrive\n");
		} else if (strncmp(line, "version", 7) == 0) {
			printf("= %s\n", rte_version());
		} else {
			printf("= error: not understood: %s", line);
		}
		fflush(stdout);
	}
	for (unsigned i = 0; i < 2; i++) {
		uint16_t port = i == 0 ? driver : vhost;

		if (rte_eth_dev_is_valid_port(port) && rte_eth_dev_stop(port) == 0)
			rte_eth_dev_close(port);
	}
	rte_eal_cleanup();
	return 0;
}
