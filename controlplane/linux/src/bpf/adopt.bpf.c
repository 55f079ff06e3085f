// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// tc ingress on the capsule's device. For a flow that user space has prepared, hand the listener
// a request socket built from recorded handshake options, so that the kernel makes a full socket
// with the sequence numbers of the frame in hand. Everything else passes untouched.
//
// The kfunc accepts GPL-compatible programs only, hence the licence of this one file.

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETH_HLEN 14
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define IPPROTO_TCP_ 6
#define FAMILY_V4 4
#define FAMILY_V6 6

/* Values of the kernel's TCP states as struct bpf_sock reports them. */
#define STATE_TIME_WAIT 6
#define STATE_LISTEN 10

#define TCP_FLAG_SYN 0x02
#define TCP_FLAG_RST 0x04
#define TCP_FLAG_ACK 0x10

/* Layout fixed by the kernel; reserved must be zero. */
struct bpf_tcp_req_attrs {
	__u32 rcv_tsval;
	__u32 rcv_tsecr;
	__u16 mss;
	__u8 rcv_wscale;
	__u8 snd_wscale;
	__u8 ecn_ok;
	__u8 wscale_ok;
	__u8 sack_ok;
	__u8 tstamp_ok;
	__u8 usec_ts_ok;
	__u8 reserved[3];
};

/* Same bytes as encode_attrs in adopt.rs. */
struct prepared {
	struct bpf_tcp_req_attrs attrs;
	/* The one frame that may open the connection, if `exact`. */
	__u32 seq;
	__u32 ack;
	__u32 exact;
};

/* Complete on purpose: libbpf compares the kind (struct, not forward) with the kernel's BTF. */
struct sock {
	int unused;
};

extern int bpf_sk_assign_tcp_reqsk(struct __sk_buff *skb, struct sock *sk,
				   struct bpf_tcp_req_attrs *attrs, int attrs__sz) __ksym;

/* Same bytes as FlowRecord in adopt.rs: addresses and ports in network order. */
struct flow_key {
	__u8 client[16];
	__u8 server[16];
	__be16 client_port;
	__be16 server_port;
	__u32 family;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* user space sets the bound before loading */
	__type(key, struct flow_key);
	__type(value, struct prepared);
} flows SEC(".maps");

enum counter { ADOPTED, NO_LISTENER, REFUSED, EXISTING, TIME_WAIT, COUNTERS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 which)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &which);

	if (value)
		*value += 1;
}

SEC("tc")
int adopt(struct __sk_buff *skb)
{
	struct flow_key key = {};
	struct bpf_sock_tuple tuple = {};
	struct bpf_tcp_req_attrs attrs;
	struct prepared *found;
	struct bpf_sock *skc;
	struct tcp_sock *listener;
	__u32 tuple_len, tcp_at;
	__u8 flags;
	__u16 ports[2];
	__be32 numbers[2];

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		__u8 ip[20];

		if (bpf_skb_load_bytes(skb, ETH_HLEN, ip, sizeof(ip)))
			return 0;
		/* Version 4, TCP, and not a fragment (MF or an offset). */
		if (ip[0] >> 4 != 4 || (ip[0] & 0x0f) < 5 || ip[9] != IPPROTO_TCP_ ||
		    (ip[6] & 0x3f) || ip[7])
			return 0;
		tcp_at = ETH_HLEN + (ip[0] & 0x0f) * 4;
		__builtin_memcpy(key.client, &ip[12], 4);
		__builtin_memcpy(key.server, &ip[16], 4);
		key.family = FAMILY_V4;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		__u8 ip[40];

		if (bpf_skb_load_bytes(skb, ETH_HLEN, ip, sizeof(ip)))
			return 0;
		if (ip[0] >> 4 != 6 || ip[6] != IPPROTO_TCP_)
			return 0;
		tcp_at = ETH_HLEN + 40;
		__builtin_memcpy(key.client, &ip[8], 16);
		__builtin_memcpy(key.server, &ip[24], 16);
		key.family = FAMILY_V6;
	} else {
		return 0;
	}

	if (bpf_skb_load_bytes(skb, tcp_at, ports, sizeof(ports)) ||
	    bpf_skb_load_bytes(skb, tcp_at + 4, numbers, sizeof(numbers)) ||
	    bpf_skb_load_bytes(skb, tcp_at + 13, &flags, sizeof(flags)))
		return 0;
	/* Only a frame with an ACK and neither SYN nor RST carries both sequence numbers. */
	if ((flags & (TCP_FLAG_SYN | TCP_FLAG_RST | TCP_FLAG_ACK)) != TCP_FLAG_ACK)
		return 0;
	key.client_port = ports[0];
	key.server_port = ports[1];

	found = bpf_map_lookup_elem(&flows, &key);
	if (!found)
		return 0;
	/*
	 * A frame of the flow that was on its way before the prepared one would make a connection
	 * with a hole before it: it must pass.
	 */
	if (found->exact &&
	    (bpf_ntohl(numbers[0]) != found->seq || bpf_ntohl(numbers[1]) != found->ack))
		return 0;
	attrs = found->attrs;

	if (key.family == FAMILY_V4) {
		__builtin_memcpy(&tuple.ipv4.saddr, key.client, 4);
		__builtin_memcpy(&tuple.ipv4.daddr, key.server, 4);
		tuple.ipv4.sport = key.client_port;
		tuple.ipv4.dport = key.server_port;
		tuple_len = sizeof(tuple.ipv4);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, key.client, 16);
		__builtin_memcpy(tuple.ipv6.daddr, key.server, 16);
		tuple.ipv6.sport = key.client_port;
		tuple.ipv6.dport = key.server_port;
		tuple_len = sizeof(tuple.ipv6);
	}

	/*
	 * One entry serves one frame, whatever comes of it: were it kept, a later frame would make
	 * a connection with a hole where this one was.
	 */
	bpf_map_delete_elem(&flows, &key);

	skc = bpf_skc_lookup_tcp(skb, &tuple, tuple_len, BPF_F_CURRENT_NETNS, 0);
	if (!skc) {
		count(NO_LISTENER);
		return 0;
	}
	if (skc->state == STATE_LISTEN) {
		listener = bpf_skc_to_tcp_sock(skc);
		if (listener && bpf_sk_assign_tcp_reqsk(skb, (struct sock *)listener, &attrs,
							sizeof(attrs)) == 0)
			count(ADOPTED);
		else
			count(REFUSED);
	} else if (skc->state == STATE_TIME_WAIT) {
		/*
		 * Giving the frame to the listener all the same would lose it: the kernel does not
		 * hash a new socket beside an old one that waits.
		 */
		count(TIME_WAIT);
	} else {
		count(EXISTING);
	}
	bpf_sk_release(skc);
	return 0;
}

char _license[] SEC("license") = "Dual MIT/GPL";
