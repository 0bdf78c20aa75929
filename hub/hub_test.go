package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

// serve is a hub with one repository, a model and a data set: small files as git has them, large ones behind a redirect to another server.
func serve(t *testing.T, files map[string]string) (endpoint string, requests *[]string) {
	t.Helper()
	requests = &[]string{}
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the token was sent to another server")
		}
		w.Write([]byte(files[strings.TrimPrefix(r.URL.Path, "/")]))
	}))
	t.Cleanup(storage.Close)
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*requests = append(*requests, r.Method+" "+r.URL.Path)
		if r.Header.Get("Authorization") != "Bearer secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.URL.Path == "/api/models/org/name/revision/main" || r.URL.Path == "/api/datasets/org/name/revision/main" {
			var siblings []map[string]string
			for name := range files {
				siblings = append(siblings, map[string]string{"rfilename": name})
			}
			json.NewEncoder(w).Encode(map[string]any{"sha": commit, "siblings": siblings})
			return
		}
		name, ok := strings.CutPrefix(strings.TrimPrefix(r.URL.Path, "/datasets"), "/org/name/resolve/"+commit+"/")
		content, known := files[name]
		switch {
		case !ok || !known:
			w.WriteHeader(http.StatusNotFound)
		case strings.HasSuffix(name, ".safetensors"):
			w.Header().Set("X-Linked-Etag", fmt.Sprintf(`"%x"`, sha256.Sum256([]byte(content))))
			// The storage is the same address under another name, which makes it another server for the token.
			http.Redirect(w, r, strings.Replace(storage.URL, "127.0.0.1", "localhost", 1)+"/"+name, http.StatusFound)
		default:
			w.Header().Set("Etag", fmt.Sprintf(`"%x"`, sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(content), content))))
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			w.Write([]byte(content))
		}
	}))
	t.Cleanup(hub.Close)
	return hub.URL, requests
}

func TestDownloadFillsTheCacheThatFindReads(t *testing.T) {
	t.Setenv("HF_HUB_CACHE", t.TempDir())
	files := map[string]string{"config.json": "{}", "model.safetensors": "weights", "additional_chat_templates/tool.jinja": "x", "README.md": "no", "../out.json": "no"}
	endpoint, requests := serve(t, files)
	if _, err := Find("org/name", ""); !errors.Is(err, fs.ErrNotExist) || len(*requests) != 0 {
		t.Errorf("before the download: %v, requests %v", err, *requests)
	}
	ctx, o := context.Background(), Options{Endpoint: endpoint, Token: "secret"}
	dir, err := Download(ctx, "org/name", o)
	if err != nil {
		t.Fatal(err)
	}
	for _, revision := range []string{"", "main", commit} {
		if found, err := Find("org/name", revision); err != nil || found != dir || filepath.Base(dir) != commit {
			t.Errorf("revision %q is in %s (%v), want %s", revision, found, err, dir)
		}
	}
	for _, name := range []string{"config.json", "model.safetensors", "additional_chat_templates/tool.jinja"} {
		if raw, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(raw) != files[name] {
			t.Errorf("%s holds %q (%v)", name, raw, err)
		}
		if target, err := os.Readlink(filepath.Join(dir, name)); err != nil || !strings.Contains(target, "blobs") {
			t.Errorf("%s is no link into blobs: %q, %v", name, target, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "README.md")); err == nil {
		t.Error("README.md was downloaded")
	}
	*requests = nil
	if _, err := Download(ctx, "org/name", o); err != nil || len(*requests) != 1 {
		t.Errorf("a second download: %v, requests %v", err, *requests)
	}
}

func TestDataSetsHaveFoldersAndPathsOfTheirOwn(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("HF_HUB_CACHE", cache)
	files := map[string]string{"README.md": "---\n---", "data/train-00000-of-00001.parquet": "rows", "../out.json": "no"}
	endpoint, requests := serve(t, files)
	ctx, o := context.Background(), Options{Dataset: true, Endpoint: endpoint, Token: "secret"}
	names, err := List(ctx, "org/name", o)
	if err != nil || len(names) != len(files) {
		t.Errorf("listed %q (%v), want %d names", names, err, len(files))
	}
	dir, err := Download(ctx, "org/name", o)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README.md", "data/train-00000-of-00001.parquet"} {
		if raw, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(raw) != files[name] {
			t.Errorf("%s holds %q (%v)", name, raw, err)
		}
	}
	if found, err := FindDataset("org/name", ""); err != nil || found != dir || !strings.HasPrefix(dir, filepath.Join(cache, "datasets--org--name")) {
		t.Errorf("found %s (%v), want %s", found, err, dir)
	}
	if _, err := Find("org/name", ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the data set is found as a model: %v", err)
	}
	for _, r := range *requests {
		if strings.Contains(r, "/models/") || strings.Contains(r, "out.json") {
			t.Errorf("request %s", r)
		}
	}
	if _, err := FindDataset("org/other", ""); err == nil || !strings.Contains(err.Error(), `data set "org/other"`) {
		t.Errorf("error %v", err)
	}
}

func TestDownloadErrorsLeaveNoFile(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("HF_HUB_CACHE", cache)
	files := map[string]string{"model.safetensors": "weights"}
	endpoint, _ := serve(t, files)
	ctx := context.Background()
	cut := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/model") {
			files["model.safetensors"] = "weigh"
		}
		return http.DefaultTransport.RoundTrip(r)
	})}
	for says, c := range map[string]struct {
		id string
		o  Options
	}{
		"Options.Token":  {"org/name", Options{Endpoint: endpoint}},
		"404":            {"org/other", Options{Endpoint: endpoint, Token: "secret"}},
		"no file that":   {"org/name", Options{Endpoint: endpoint, Token: "secret", Files: []string{"*.bin"}}},
		"what came has":  {"org/name", Options{Endpoint: endpoint, Token: "secret", Client: cut}},
		"is no id of":    {"../name", Options{Endpoint: endpoint}},
		"is no revision": {"org/name", Options{Endpoint: endpoint, Revision: "../x"}},
	} {
		if _, err := Download(ctx, c.id, c.o); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want %q in it", err, says)
		}
	}
	if blobs, _ := filepath.Glob(filepath.Join(cache, "*", "blobs", "*")); len(blobs) != 0 {
		t.Errorf("blobs %v", blobs)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func ExampleFind() {
	os.Setenv("HF_HUB_CACHE", "no/such/cache")
	defer os.Unsetenv("HF_HUB_CACHE")
	_, err := Find("Qwen/Qwen3-0.6B", "")
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	// Output: true
}

func ExampleDownload() {
	_, err := Download(context.Background(), "not an id", Options{})
	fmt.Println(err)
	// Output: hub: "not an id" is no id of a model; want ORGANIZATION/NAME
}
