// Command service is an HTTP service that fine-tunes a model for its clients: it takes training jobs, streams their
// progress, cancels and resumes them, and answers with the tuned models. One base model is loaded once; every job trains an
// adapter of its own.
//
//	go run ./examples/service                      # the small model of this repository, on localhost:8080
//	go run ./examples/service -backend xla:cuda -model path/to/Llama-3.2-1B-Instruct -4bit -data-dir /var/lib/tuning
//
//	curl localhost:8080/jobs -d '{"rows": [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}],
//	    "sft": {"learning_rate": 0.004, "max_steps": 40}, "lora": {"r": 8, "lora_alpha": 16}}'
//	curl -N localhost:8080/jobs/1/events           # server-sent events: every line of the log, and every change of state
//	curl -X POST localhost:8080/jobs/1/cancel      # saves a checkpoint
//	curl -X POST localhost:8080/jobs/1/resume      # goes on from it, also after a restart of the service
//	curl localhost:8080/jobs/1/chat -d '{"messages": [{"role": "user", "content": "Hi"}]}'
//	curl localhost:8080/metrics                    # for Prometheus
//
// It has no accounts and no limits on what a client may ask for: put it behind something that has.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/quant"
	"github.com/loris-ml/loris/tokenizer"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr, nil); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "service:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	address, model, dir, backend string
	fourBit                      bool
	atOnce                       int
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	f := flag.NewFlagSet("service", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.address, "listen", "localhost:8080", "address to listen on")
	f.StringVar(&o.model, "model", "examples/tiny", "folder with config.json, safetensors and tokenizer.json, or a .gguf file")
	f.StringVar(&o.dir, "data-dir", "out/service", "folder of the jobs")
	f.StringVar(&o.backend, "backend", "", "\"\" (pure Go), xla:cpu or xla:cuda")
	f.BoolVar(&o.fourBit, "4bit", false, "quantize the base model to four bits (QLoRA)")
	f.IntVar(&o.atOnce, "jobs", 1, "jobs that train at the same time; others wait")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if o.atOnce < 1 {
		return o, fmt.Errorf("-jobs is %d, want at least 1", o.atOnce)
	}
	return o, nil
}

// run serves until ctx is done; then running jobs are saved. ready, unless nil, is told the address.
func run(ctx context.Context, args []string, stderr io.Writer, ready func(address string)) (err error) {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	loading := models.Options{Backend: o.backend, Progress: stderr}
	if o.fourBit {
		loading.Quantization = &quant.BitsAndBytesConfig{LoadIn4Bit: true, BNB4BitQuantType: quant.NF4, BNB4BitUseDoubleQuant: true}
	}
	model, err := models.FromPretrained(ctx, o.model, loading)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, model.Close()) }()
	tok, err := tokenizer.FromPretrained(o.model)
	if err != nil {
		return err
	}
	s, err := newService(ctx, model, tok, o, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	listener, err := net.Listen("tcp", o.address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: s.routes(), BaseContext: func(net.Listener) context.Context { return ctx }, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	log.Info("serving", "address", listener.Addr().String())
	if ready != nil {
		ready(listener.Addr().String())
	}
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err = server.Shutdown(ending) // requests end with ctx
	s.jobs.Wait()                 // they are saving their checkpoints
	return err
}
