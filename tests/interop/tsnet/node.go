// SPDX-License-Identifier: BSD-3-Clause

// The node: joins, echoes on its tailnet addresses, and does as it is told.
//
//	event "status"      its status (see below, but received and sent are 0), whenever it has changed
//	event "login"       the URL where a person is to log in
//	event "error"       a text of the backend's
//
//	status              → {"state": "Running", "name": "alice.lab.test.", "addresses": ["100.64.0.1", …],
//	                       "peers": {"bob": {"addresses": […], "online": true, "relay": "test", "direct": "",
//	                                         "received": 148, "sent": 92}},
//	                       "health": ["…"]}
//	                      relay: code of the peer's home region; direct: its UDP endpoint while that is in use
//	tcp address payload → what the echo at the address ("bob:7", "100.64.0.2:7", "[fd7a:…]:7") has sent back
//	udp address payload → the same; sent again each second
//	ping ip type        → {"seconds": 0.002, "relay": "test", "direct": ""}; types: disco, TSMP, ICMP, peerapi
//	logout              → null
//
// A command waits for its answer `timeout` seconds, 15 where it is not given: a lost handshake costs 5.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/ipn"
	"tailscale.com/tailcfg"
	"tailscale.com/tsnet"
)

// node is a tsnet node and its channel.
type node struct {
	server  *tsnet.Server
	local   *local.Client
	channel *channel
}

func runNode(arguments []string) error {
	flags := flag.NewFlagSet("node", flag.ExitOnError)
	control := flags.String("control", "", "URL of the coordination server")
	hostname := flags.String("hostname", "", "name to ask for")
	dir := flags.String("dir", "", "folder for its state")
	ephemeral := flags.Bool("ephemeral", false, "register as an ephemeral node")
	echo := flags.Int("echo", 7, "TCP and UDP port of its echo")
	open := channelFlag(flags)
	flags.Parse(arguments)

	server := &tsnet.Server{ControlURL: *control, Hostname: *hostname, Dir: *dir, Ephemeral: *ephemeral, Logf: log.Printf}
	defer server.Close()
	client, err := server.LocalClient() // starts it
	if err != nil {
		return err
	}
	n := &node{server, client, open()}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go n.watch(ctx, uint16(*echo))
	return n.channel.serve(ctx, map[string]handler{
		"status": command(func(ctx context.Context, _ nothing) (any, error) { return n.status(ctx) }),
		"tcp":    command(n.tcp),
		"udp":    command(n.udp),
		"ping":   command(n.ping),
		"logout": command(func(ctx context.Context, _ nothing) (any, error) { return nil, n.local.Logout(ctx) }),
	})
}

// watch turns the backend's notifications into events. It looks at the status after each of them, and now and then, as
// no notification tells of a peer's new relay or endpoint.
func (n *node) watch(ctx context.Context, echoPort uint16) {
	watcher, err := n.local.WatchIPNBus(ctx, ipn.NotifyInitialState|ipn.NotifyPeerChanges)
	if err != nil {
		log.Fatalf("notifications: %v", err)
	}
	defer watcher.Close()
	look := make(chan bool, 1)
	go n.watchStatus(ctx, look, echoPort)
	for {
		notify, err := watcher.Next()
		if err != nil {
			log.Printf("notifications: %v", err)
			return
		}
		if notify.ErrMessage != nil {
			n.channel.event("error", *notify.ErrMessage)
		}
		if notify.BrowseToURL != nil && *notify.BrowseToURL != "" {
			n.channel.event("login", *notify.BrowseToURL)
		}
		select {
		case look <- true:
		default: // somebody is about to
		}
	}
}

// watchStatus tells of each new status, but not when only counters have changed, and has each new address served.
func (n *node) watchStatus(ctx context.Context, look <-chan bool, echoPort uint16) {
	var told *status
	served := map[netip.Addr]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-look:
		case <-time.After(100 * time.Millisecond):
		}
		found, err := n.status(ctx)
		if err != nil {
			log.Printf("status: %v", err)
			continue
		}
		for _, address := range found.Addresses {
			if !served[address] {
				served[address] = true
				n.echo(netip.AddrPortFrom(address, echoPort))
			}
		}
		for name, peer := range found.Peers {
			peer.Received, peer.Sent = 0, 0
			found.Peers[name] = peer
		}
		if !reflect.DeepEqual(found, told) {
			n.channel.event("status", found)
			told = found
		}
	}
}

type status struct {
	State     string          `json:"state"`
	Name      string          `json:"name"`
	Addresses []netip.Addr    `json:"addresses"`
	Peers     map[string]peer `json:"peers"` // by the first label of the name
	Health    []string        `json:"health"`
}

type peer struct {
	Addresses []netip.Addr `json:"addresses"`
	Online    bool         `json:"online"`
	Relay     string       `json:"relay"`
	Direct    string       `json:"direct"`
	Received  int64        `json:"received"` // bytes
	Sent      int64        `json:"sent"`     // bytes
}

func (n *node) status(ctx context.Context) (*status, error) {
	found, err := n.local.Status(ctx)
	if err != nil {
		return nil, err
	}
	result := &status{
		State:     found.BackendState,
		Addresses: append([]netip.Addr{}, found.TailscaleIPs...), // never null
		Peers:     map[string]peer{},
		Health:    found.Health,
	}
	if found.Self != nil {
		result.Name = found.Self.DNSName
	}
	for _, p := range found.Peer {
		label, _, _ := strings.Cut(p.DNSName, ".")
		result.Peers[label] = peer{p.TailscaleIPs, p.Online, p.Relay, p.CurAddr, p.RxBytes, p.TxBytes}
	}
	return result, nil
}

// echo answers TCP and UDP at an address of the node.
func (n *node) echo(address netip.AddrPort) {
	listener, err := n.server.Listen("tcp", address.String())
	if err != nil {
		log.Fatalf("echo: %v", err)
	}
	packets, err := n.server.ListenPacket("udp", address.String())
	if err != nil {
		log.Fatalf("echo: %v", err)
	}
	go echoStreams(listener)
	go echoPackets(packets)
}

func echoStreams(listener net.Listener) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer connection.Close()
			io.Copy(connection, connection)
		}()
	}
}

func echoPackets(packets net.PacketConn) {
	buffer := make([]byte, 1<<16)
	for {
		size, source, err := packets.ReadFrom(buffer)
		if err != nil {
			return
		}
		packets.WriteTo(buffer[:size], source)
	}
}

// errand is what tcp and udp are to do.
type errand struct {
	Address string
	Payload string
	Timeout float64
}

func (e errand) deadline() time.Time {
	if e.Timeout == 0 {
		e.Timeout = 15
	}
	return time.Now().Add(time.Duration(e.Timeout * float64(time.Second)))
}

func (n *node) tcp(ctx context.Context, e errand) (any, error) {
	ctx, cancel := context.WithDeadline(ctx, e.deadline())
	defer cancel()
	connection, err := n.server.Dial(ctx, "tcp", e.Address)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	deadline, _ := ctx.Deadline()
	connection.SetDeadline(deadline)
	go io.WriteString(connection, e.Payload)
	answer := make([]byte, len(e.Payload))
	size, err := io.ReadFull(connection, answer)
	if err != nil {
		return nil, fmt.Errorf("after %d bytes: %w", size, err)
	}
	return string(answer), nil
}

func (n *node) udp(ctx context.Context, e errand) (any, error) {
	deadline := e.deadline()
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	connection, err := n.server.Dial(ctx, "udp", e.Address)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	answer := make([]byte, 1<<16)
	for time.Now().Before(deadline) {
		if _, err := io.WriteString(connection, e.Payload); err != nil {
			return nil, err
		}
		connection.SetReadDeadline(time.Now().Add(time.Second))
		if size, err := connection.Read(answer); err == nil {
			return string(answer[:size]), nil
		}
	}
	return nil, errors.New("no answer")
}

type pingErrand struct {
	IP      netip.Addr
	Type    tailcfg.PingType
	Timeout float64
}

func (n *node) ping(ctx context.Context, e pingErrand) (any, error) {
	ctx, cancel := context.WithDeadline(ctx, errand{Timeout: e.Timeout}.deadline())
	defer cancel()
	pong, err := n.local.Ping(ctx, e.IP, e.Type)
	if err != nil {
		return nil, err
	}
	if pong.Err != "" {
		return nil, errors.New(pong.Err)
	}
	return map[string]any{"seconds": pong.LatencySeconds, "relay": pong.DERPRegionCode, "direct": pong.Endpoint}, nil
}
