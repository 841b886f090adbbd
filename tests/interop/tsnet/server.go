// SPDX-License-Identifier: BSD-3-Clause

// The server: coordination and relay on one TLS port, STUN on the UDP port of the same number.
//
//	event "serving"             → {"control_url": "https://192.0.2.1:443", "ca": "DIR/ca.pem"}, once it is up
//
//	nodes                       → every node it knows, as tailcfg.Node in JSON
//	expire node seconds         → null: the node's key expires so many seconds from now; may be negative
//	add_fake_node               → null: a node that is never there; others learn of it by their next map
//	map node response           → null: this tailcfg.MapResponse goes to the node, and no other from now on
//	c2n node method path body   → {"status": 200, "body": "…"}: a request to the node and its answer
//	ping node types ip          → [{"method": "POST", "body": "…"}]: what came back; without types: a HEAD request
//	log_in url                  → null: the person who was sent there has logged in
//
// A node is named by its host name. Times are seconds; c2n and ping wait 15.
package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stunserver"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"
)

const (
	domain      = "lab.test"
	answerTime  = 15 * time.Second
	regionID    = 1
	pingsFolder = "/ping/" // our own, beside testcontrol's paths
)

// server is a testcontrol server and what it lacks.
type server struct {
	control *testcontrol.Server
	pings   sync.Map // token => chan pong
}

func runServer(arguments []string) error {
	flags := flag.NewFlagSet("server", flag.ExitOnError)
	listen := flags.String("listen", "", "address and port")
	dir := flags.String("dir", "", "folder that it writes ca.pem to")
	login := flags.Bool("login", false, "send every new node to a login page")
	open := channelFlag(flags)
	flags.Parse(arguments)

	address, err := netip.ParseAddrPort(*listen)
	if err != nil {
		return err
	}
	ca := filepath.Join(*dir, "ca.pem")
	certificate, err := selfSigned(address.Addr(), ca)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := &server{control: &testcontrol.Server{
		ExplicitBaseURL: "https://" + address.String(),
		MagicDNSDomain:  domain,
		DNSConfig:       &tailcfg.DNSConfig{Proxied: true, Domains: []string{domain}},
		DERPMap:         derpMap(address, certificate),
		RequireAuthKey:  os.Getenv("TS_AUTHKEY"),
		RequireAuth:     *login,
		AllOnline:       true,
		Logf:            log.Printf,
	}}
	listener, err := net.Listen("tcp", address.String())
	if err != nil {
		return err
	}
	stun := stunserver.New(ctx)
	if err := stun.Listen(address.String()); err != nil {
		return err
	}
	go stun.Serve()
	go s.serve(listener, certificate)
	channel := open()
	channel.event("serving", map[string]string{"control_url": s.control.BaseURL(), "ca": ca})
	return channel.serve(ctx, map[string]handler{
		"nodes":         command(s.nodes),
		"expire":        command(s.expire),
		"add_fake_node": command(func(context.Context, nothing) (any, error) { s.control.AddFakeNode(); return nil, nil }),
		"map":           command(s.sendMap),
		"c2n":           command(s.c2n),
		"ping":          command(s.ping),
		"log_in":        command(s.logIn),
	})
}

// selfSigned makes a certificate for an address, and writes it to a file for those who are to trust it.
func selfSigned(address netip.Addr, file string) (*tls.Certificate, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: "ts4nsnet tests"},
		IPAddresses:           []net.IP{address.AsSlice()},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, nil
}

// derpMap has the one region with our relay, its certificate pinned.
func derpMap(address netip.AddrPort, certificate *tls.Certificate) *tailcfg.DERPMap {
	relay := &tailcfg.DERPNode{
		Name:     "1a",
		RegionID: regionID,
		HostName: address.Addr().String(),
		CertName: fmt.Sprintf("sha256-raw:%x", sha256.Sum256(certificate.Certificate[0])),
		IPv4:     "none",
		IPv6:     "none",
		DERPPort: int(address.Port()),
		STUNPort: int(address.Port()),
	}
	if address.Addr().Is4() {
		relay.IPv4 = address.Addr().String()
	} else {
		relay.IPv6 = address.Addr().String()
	}
	return &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{
		regionID: {RegionID: regionID, RegionCode: "test", RegionName: "Test", Nodes: []*tailcfg.DERPNode{relay}},
	}}
}

// serve puts relay and coordination on one TLS port, as HTTP/1.1: both take connections over.
func (s *server) serve(listener net.Listener, certificate *tls.Certificate) {
	relay := derpserver.New(key.NewNode(), log.Printf)
	mux := http.NewServeMux()
	mux.Handle("/derp", derpserver.Handler(relay))
	mux.Handle("/derp/", derpserver.Handler(relay))
	mux.HandleFunc("/generate_204", derpserver.ServeNoContent)
	mux.HandleFunc(pingsFolder, s.servePong)
	mux.Handle("/", s.control)
	config := &tls.Config{
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate, nil },
	}
	relay.ModifyTLSConfigToAddMetaCert(config) // tells the relay's key, for its fast start
	https := &http.Server{Handler: mux, TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}}
	log.Fatal(https.Serve(tls.NewListener(listener, config)))
}

func (s *server) nodes(context.Context, nothing) (any, error) {
	return append([]*tailcfg.Node{}, s.control.AllNodes()...), nil // never null
}

// node finds the node with a host name.
func (s *server) node(name string) (*tailcfg.Node, error) {
	for _, node := range s.control.AllNodes() {
		if node.Hostinfo.Valid() && node.Hostinfo.Hostname() == name {
			return node, nil
		}
	}
	return nil, fmt.Errorf("there is no node %q", name)
}

type expiry struct {
	Node    string
	Seconds float64
}

func (s *server) expire(_ context.Context, e expiry) (any, error) {
	node, err := s.node(e.Node)
	if err != nil {
		return nil, err
	}
	node.KeyExpiry = time.Now().Add(time.Duration(e.Seconds * float64(time.Second)))
	s.control.UpdateNode(node)
	return nil, nil
}

type mapErrand struct {
	Node     string
	Response *tailcfg.MapResponse
}

func (s *server) sendMap(_ context.Context, e mapErrand) (any, error) {
	node, err := s.node(e.Node)
	if err != nil {
		return nil, err
	}
	if !s.control.AddRawMapResponse(node.Key, e.Response) {
		return nil, fmt.Errorf("%s is not connected", e.Node)
	}
	return nil, nil
}

type c2nErrand struct {
	Node, Method, Path, Body string
}

func (s *server) c2n(ctx context.Context, e c2nErrand) (any, error) {
	node, err := s.node(e.Node)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, e.Method, "http://"+e.Node+e.Path, strings.NewReader(e.Body))
	if err != nil {
		return nil, err
	}
	response, err := s.control.NodeRoundTripper(node.Key).RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	return map[string]any{"status": response.StatusCode, "body": string(body)}, nil
}

type pingRequest struct {
	Node  string
	Types string // separated by commas: disco, TSMP, ICMP, peerapi
	IP    netip.Addr
}

type pong struct {
	Method string `json:"method"`
	Body   string `json:"body"`
}

func (s *server) ping(ctx context.Context, e pingRequest) (any, error) {
	node, err := s.node(e.Node)
	if err != nil {
		return nil, err
	}
	path := pingsFolder + rand.Text()
	wanted := 1 + strings.Count(e.Types, ",")
	pongs := make(chan pong, wanted)
	s.pings.Store(path, pongs)
	defer s.pings.Delete(path)
	request := &tailcfg.PingRequest{URL: s.control.BaseURL() + path, Log: true, Types: e.Types, IP: e.IP}
	if !s.control.AddPingRequest(node.Key, request) {
		return nil, fmt.Errorf("%s is not connected", e.Node)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	var answers []pong
	for len(answers) < wanted {
		select {
		case answer := <-pongs:
			answers = append(answers, answer)
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d answers: %v", len(answers), wanted, answers)
		}
	}
	return answers, nil
}

func (s *server) servePong(_ http.ResponseWriter, r *http.Request) {
	var body bytes.Buffer
	io.Copy(&body, r.Body)
	if pongs, ok := s.pings.Load(r.URL.Path); ok {
		select {
		case pongs.(chan pong) <- pong{r.Method, body.String()}:
		default: // more than were asked for
		}
	}
}

type visit struct{ URL string }

func (s *server) logIn(_ context.Context, v visit) (any, error) {
	if !s.control.CompleteAuth(v.URL) {
		return nil, fmt.Errorf("%s leads to no login", v.URL)
	}
	return nil, nil
}
