/* SPDX-License-Identifier: Apache-2.0
 *
 * What bindgen sees. DPDK's macros, inline functions and version-dependent structures are reached
 * only through the shims below, so that the Rust side sees the same functions with every supported
 * release: no structure layout of DPDK crosses the language border, except the mbuf offsets, which
 * are taken from the compiler at build time.
 */
#ifndef UNDERSTUDY_DPDK_WRAPPER_H
#define UNDERSTUDY_DPDK_WRAPPER_H

/* rte_bpf_convert() and rte_eth_read_clock() are still called experimental. */
#define ALLOW_EXPERIMENTAL_API 1

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <rte_version.h>
#include <rte_config.h>
#include <rte_bpf.h>
#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_mbuf_dyn.h>
#include <rte_mempool.h>

#if RTE_VERSION < RTE_VERSION_NUM(22, 11, 0, 0)
#error "DPDK 22.11 or later is required"
#endif

/* Numbers that differ between releases or builds. */
enum shim_layout {
	SHIM_MBUF_OFFSET_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	SHIM_MBUF_OFFSET_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	SHIM_MBUF_OFFSET_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	SHIM_MBUF_OFFSET_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	SHIM_MBUF_OFFSET_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	SHIM_MBUF_OFFSET_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	SHIM_MBUF_OFFSET_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	SHIM_MBUF_HEADROOM_BYTES = RTE_PKTMBUF_HEADROOM,
	SHIM_MEMPOOL_CACHE_MAX = RTE_MEMPOOL_CACHE_MAX_SIZE,
	SHIM_MEMPOOL_NAME_BYTES_MAX = RTE_MEMPOOL_NAMESIZE - 1,
};

/* The widths that the Rust side assumes when it reads mbuf fields by offset. */
_Static_assert(sizeof(((struct rte_mbuf *)0)->buf_addr) == sizeof(void *), "mbuf.buf_addr");
_Static_assert(sizeof(((struct rte_mbuf *)0)->data_off) == 2, "mbuf.data_off");
_Static_assert(sizeof(((struct rte_mbuf *)0)->ol_flags) == 8, "mbuf.ol_flags");
_Static_assert(sizeof(((struct rte_mbuf *)0)->nb_segs) == 2, "mbuf.nb_segs");
_Static_assert(sizeof(((struct rte_mbuf *)0)->pkt_len) == 4, "mbuf.pkt_len");
_Static_assert(sizeof(((struct rte_mbuf *)0)->data_len) == 2, "mbuf.data_len");
_Static_assert(sizeof(((struct rte_mbuf *)0)->buf_len) == 2, "mbuf.buf_len");

struct shim_eth_info {
	struct rte_device *device;
	uint64_t rss_types;
	uint32_t min_rx_bufsize_bytes;
	uint16_t rx_queues_max;
	uint16_t tx_queues_max;
	uint8_t tx_multi_segs;
	uint8_t rx_timestamp;
};

struct shim_eth_stats {
	uint64_t rx_packets;
	uint64_t tx_packets;
	uint64_t rx_bytes;
	uint64_t tx_bytes;
	uint64_t rx_missed;
	uint64_t rx_errors;
	uint64_t tx_errors;
	uint64_t rx_nombuf;
};

static inline int shim_errno(void)
{
	return rte_errno;
}

/* The version of the headers, as rte_version() would print it. */
static inline const char *shim_header_version(void)
{
	return rte_version();
}

/* First port that matches the devargs. 0, or -ENODEV. */
static inline int shim_eth_find(const char *devargs, uint16_t *port_id)
{
	struct rte_dev_iterator iterator;
	uint16_t found;

	memset(&iterator, 0, sizeof(iterator));
	if (rte_eth_iterator_init(&iterator, devargs) != 0)
		return -ENODEV;
	found = rte_eth_iterator_next(&iterator);
	if (found >= RTE_MAX_ETHPORTS)
		return -ENODEV;
	/* The iterator frees itself only when it runs off the end. */
	rte_eth_iterator_cleanup(&iterator);
	*port_id = found;
	return 0;
}

static inline int shim_eth_info_get(uint16_t port_id, struct shim_eth_info *out)
{
	struct rte_eth_dev_info info;
	int ret;

	memset(&info, 0, sizeof(info));
	ret = rte_eth_dev_info_get(port_id, &info);
	if (ret != 0)
		return ret;
	memset(out, 0, sizeof(*out));
	out->device = info.device;
	out->min_rx_bufsize_bytes = info.min_rx_bufsize;
	out->rx_queues_max = info.max_rx_queues;
	out->tx_queues_max = info.max_tx_queues;
	out->rss_types = info.flow_type_rss_offloads;
	out->tx_multi_segs = !!(info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS);
	out->rx_timestamp = !!(info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_TIMESTAMP);
	return 0;
}

/* Another port of the same device exists. */
static inline int shim_eth_device_has_port(const struct rte_device *device)
{
	return rte_eth_find_next_of(0, device) < RTE_MAX_ETHPORTS;
}

/*
 * Receive queues, one transmit queue; no offload but multi-segment transmission and reception
 * timestamps, as asked. Several receive queues: by a hash of addresses and ports, where the device
 * can be told so.
 */
static inline int shim_eth_configure(uint16_t port_id, uint16_t rx_queues, int tx_multi_segs,
				     uint64_t rss_types, int rx_timestamp)
{
	struct rte_eth_conf conf;

	memset(&conf, 0, sizeof(conf));
	if (tx_multi_segs)
		conf.txmode.offloads = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
	if (rx_timestamp)
		conf.rxmode.offloads = RTE_ETH_RX_OFFLOAD_TIMESTAMP;
	rss_types &= RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP;
	if (rx_queues > 1 && rss_types != 0) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_hf = rss_types;
	}
	return rte_eth_dev_configure(port_id, rx_queues, 1, &conf);
}

/* The device's own defaults for thresholds, and the offloads of shim_eth_configure(). */
static inline int shim_eth_queues_setup(uint16_t port_id, uint16_t rx_queues, uint16_t rx_desc,
					uint16_t tx_desc, unsigned int socket_id,
					struct rte_mempool *pool)
{
	for (uint16_t queue = 0; queue < rx_queues; queue++) {
		int ret = rte_eth_rx_queue_setup(port_id, queue, rx_desc, socket_id, NULL, pool);

		if (ret != 0)
			return ret;
	}
	return rte_eth_tx_queue_setup(port_id, 0, tx_desc, socket_id, NULL);
}

static inline int shim_eth_mac_get(uint16_t port_id, uint8_t *mac)
{
	struct rte_ether_addr address;
	int ret = rte_eth_macaddr_get(port_id, &address);

	if (ret == 0)
		memcpy(mac, address.addr_bytes, RTE_ETHER_ADDR_LEN);
	return ret;
}

static inline int shim_eth_stats_get(uint16_t port_id, struct shim_eth_stats *out)
{
	struct rte_eth_stats stats;
	int ret;

	memset(&stats, 0, sizeof(stats));
	ret = rte_eth_stats_get(port_id, &stats);
	if (ret != 0)
		return ret;
	out->rx_packets = stats.ipackets;
	out->tx_packets = stats.opackets;
	out->rx_bytes = stats.ibytes;
	out->tx_bytes = stats.obytes;
	out->rx_missed = stats.imissed;
	out->rx_errors = stats.ierrors;
	out->tx_errors = stats.oerrors;
	out->rx_nombuf = stats.rx_nombuf;
	return 0;
}

/* 1 up, 0 down, negative: the device could not say. */
static inline int shim_eth_link_up(uint16_t port_id)
{
	struct rte_eth_link link;
	int ret;

	memset(&link, 0, sizeof(link));
	ret = rte_eth_link_get_nowait(port_id, &link);
	if (ret != 0)
		return ret;
	return link.link_status == RTE_ETH_LINK_UP;
}

static inline uint16_t shim_rx_burst(uint16_t port_id, uint16_t queue, struct rte_mbuf **frames,
				     uint16_t count)
{
	return rte_eth_rx_burst(port_id, queue, frames, count);
}

static inline uint16_t shim_tx_burst(uint16_t port_id, uint16_t queue, struct rte_mbuf **frames,
				     uint16_t count)
{
	return rte_eth_tx_burst(port_id, queue, frames, count);
}

static inline struct rte_mbuf *shim_mbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

static inline void shim_mbuf_free(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

static inline int shim_mbuf_linearize(struct rte_mbuf *mbuf)
{
	return rte_pktmbuf_linearize(mbuf);
}

/* Copies up to `len` bytes of a frame, whatever its segments; returns how many. */
static inline uint32_t shim_mbuf_copy(const struct rte_mbuf *mbuf, uint8_t *out, uint32_t len)
{
	uint32_t copied = 0;

	for (; mbuf != NULL && copied < len; mbuf = mbuf->next) {
		uint32_t part = RTE_MIN((uint32_t)mbuf->data_len, len - copied);

		memcpy(out + copied, rte_pktmbuf_mtod(mbuf, const uint8_t *), part);
		copied += part;
	}
	return copied;
}

/* Where received mbufs have the device's time, and the flag that says whether they do. */
static inline int shim_rx_timestamp_register(int *offset, uint64_t *flag)
{
	return rte_mbuf_dyn_rx_timestamp_register(offset, flag) == 0 ? 0 : -rte_errno;
}

static inline int shim_eth_read_clock(uint16_t port_id, uint64_t *ticks)
{
	return rte_eth_read_clock(port_id, ticks);
}

/* libpcap's layout of classic BPF, which rte_bpf_convert() takes. */
struct bpf_insn {
	uint16_t code;
	uint8_t jt;
	uint8_t jf;
	uint32_t k;
};

struct bpf_program {
	unsigned int bf_len;
	struct bpf_insn *bf_insns;
};

/* `insns`: the instructions as libpcap lays them out, eight bytes each. */
static inline int shim_bpf_load(const uint64_t *insns, uint32_t count, struct rte_bpf **out)
{
	struct bpf_program program = {
		.bf_len = count,
		.bf_insns = (struct bpf_insn *)(uintptr_t)insns,
	};
	struct rte_bpf_prm *converted = rte_bpf_convert(&program);
	int ret = 0;

	if (converted == NULL)
		return rte_errno != 0 ? -rte_errno : -EINVAL;
	*out = rte_bpf_load(converted);
	if (*out == NULL)
		ret = rte_errno != 0 ? -rte_errno : -EINVAL;
	rte_free(converted);
	return ret;
}

static inline void shim_bpf_free(struct rte_bpf *bpf)
{
	rte_bpf_destroy(bpf);
}

/* Whether the program was compiled to machine code. */
static inline int shim_bpf_is_native(const struct rte_bpf *bpf)
{
	struct rte_bpf_jit jit;

	return rte_bpf_get_jit(bpf, &jit) == 0 && jit.func != NULL;
}

/* The program's verdict on each frame: 0 is no. */
static inline void shim_bpf_run(const struct rte_bpf *bpf, struct rte_mbuf **frames,
				uint64_t *verdicts, uint32_t count)
{
	struct rte_bpf_jit jit;
	uint32_t i;

	if (rte_bpf_get_jit(bpf, &jit) == 0 && jit.func != NULL) {
		for (i = 0; i < count; i++)
			verdicts[i] = jit.func(frames[i]);
		return;
	}
	rte_bpf_exec_burst(bpf, (void **)frames, verdicts, count);
}

static inline uint64_t shim_tsc_cycles(void)
{
	return rte_get_tsc_cycles();
}

#endif
