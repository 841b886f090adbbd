// SPDX-License-Identifier: BSD-3-Clause

// Tailscale's own code, driven by our tests: a node (tsnet), or a coordination server with its relay and STUN server
// (testcontrol, derpserver, stunserver). Each is a process that a test starts on a host of its topology.
//
//	tsnet node -control URL -hostname NAME -dir DIR    its key in TS_AUTHKEY, whom to trust in SSL_CERT_FILE
//	tsnet server -listen ADDR:PORT -dir DIR            in TS_AUTHKEY the only key it takes, if there is one
//
// Both speak JSON, a value a line, on stdin and stdout, or with -channel N on file descriptor N, a socket:
//
//	→ {"id": 1, "do": "tcp", "with": {"address": "bob:7", "payload": "hello"}}
//	← {"id": 1, "result": "hello"}            or {"id": 1, "error": "why not"}
//	← {"event": "status", "value": {…}}       at any time, when something has happened
//
// Commands run side by side, so answers may overtake each other. The process ends when its channel does. Its log goes
// to stderr. What there is to do is listed in the essays of node.go and server.go.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"sync"

	"tailscale.com/envknob"
)

func main() {
	log.SetFlags(log.Lmicroseconds)
	envknob.SetNoLogsNoSupport() // upload no logs
	if len(os.Args) < 2 {
		log.Fatal("usage: tsnet node|server …")
	}
	run, ok := map[string]func([]string) error{"node": runNode, "server": runServer}[os.Args[1]]
	if !ok {
		log.Fatalf("%q: want node or server", os.Args[1])
	}
	if err := run(os.Args[2:]); err != nil {
		log.Fatal(err)
	}
}

// handler carries out a command; its argument is what the request has under "with".
type handler func(context.Context, json.RawMessage) (any, error)

// command makes a handler of a function with typed arguments. Arguments that it does not know are an error.
func command[T any](do func(context.Context, T) (any, error)) handler {
	return func(ctx context.Context, with json.RawMessage) (any, error) {
		var arguments T
		if len(with) > 0 {
			decoder := json.NewDecoder(bytes.NewReader(with))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(&arguments); err != nil {
				return nil, err
			}
		}
		return do(ctx, arguments)
	}
}

// nothing is the type of the arguments of a command that takes none.
type nothing struct{}

// channel is where requests come from, and where answers and events go.
type channel struct {
	in io.Reader

	mu  sync.Mutex
	out *json.Encoder
}

// channelFlag adds -channel to flags. What it returns opens the channel, after flags were parsed.
func channelFlag(flags *flag.FlagSet) func() *channel {
	fd := flags.Int("channel", -1, "file descriptor of a socket to speak on instead of stdin and stdout")
	return func() *channel {
		if *fd < 0 {
			return &channel{in: os.Stdin, out: json.NewEncoder(os.Stdout)}
		}
		socket := os.NewFile(uintptr(*fd), "channel")
		return &channel{in: socket, out: json.NewEncoder(socket)}
	}
}

func (c *channel) write(message map[string]any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.out.Encode(message); err != nil {
		log.Printf("channel: %v", err) // who reads has gone: serve will find out
	}
}

// event tells what has happened.
func (c *channel) event(name string, value any) {
	c.write(map[string]any{"event": name, "value": value})
}

// serve carries out requests until the channel ends.
func (c *channel) serve(ctx context.Context, handlers map[string]handler) error {
	requests := json.NewDecoder(c.in)
	for {
		var request struct {
			ID   int
			Do   string
			With json.RawMessage
		}
		if err := requests.Decode(&request); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("channel: %w", err)
		}
		go func() {
			answer := map[string]any{"id": request.ID}
			if do, ok := handlers[request.Do]; !ok {
				answer["error"] = fmt.Sprintf("there is no command %q", request.Do)
			} else if result, err := do(ctx, request.With); err != nil {
				answer["error"] = err.Error()
			} else {
				answer["result"] = result
			}
			c.write(answer)
		}()
	}
}
