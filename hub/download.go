package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/loris-ml/loris/internal/atomicfile"
)

// Options says what is downloaded and from where. The zero value is the common case.
type Options struct {
	// Dataset says that the id is that of a data set, not of a model.
	Dataset bool
	// Revision is a branch, a tag or a commit. Zero: main.
	Revision string
	// Files are patterns of [path.Match] for the names to download. Zero: *.json, *.jinja, additional_chat_templates/* and
	// *.safetensors, all that is read of a model; of a data set, all files.
	Files []string
	// Endpoint is the server. Zero: https://huggingface.co.
	Endpoint string
	// Token is sent to Endpoint, and to no other server, for models that need it.
	Token string
	// Client makes the requests. Nil: http.DefaultClient.
	Client *http.Client
}

var defaultFiles = []string{"*.json", "*.jinja", "additional_chat_templates/*", "*.safetensors"}

// Download brings a model into the cache and returns its folder, for FromPretrained. Files that are there are kept; each
// appears when it is whole and has the hash that the server tells.
func Download(ctx context.Context, id string, o Options) (string, error) {
	d, err := newDownload(id, o)
	if err != nil {
		return "", err
	}
	dir, err := d.run(ctx)
	if err != nil {
		return "", fmt.Errorf("hub: download %s: %w", id, err)
	}
	return dir, nil
}

// List asks the server for the names of the files that a model or data set has.
func List(ctx context.Context, id string, o Options) ([]string, error) {
	d, err := newDownload(id, o)
	if err != nil {
		return nil, err
	}
	info, err := d.info(ctx)
	if err != nil {
		return nil, fmt.Errorf("hub: list %s: %w", id, err)
	}
	var names []string
	for _, s := range info.Siblings {
		names = append(names, s.RFilename)
	}
	return names, nil
}

// download is one of them on its way.
type download struct {
	Options
	id, repo string
	client   *http.Client
}

func newDownload(id string, o Options) (*download, error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	d := &download{Options: o, id: id, client: o.Client}
	if d.repo, err = repository(cache, o.kind(), id, &d.Revision); err != nil {
		return nil, err
	}
	if d.client == nil {
		d.client = http.DefaultClient
	}
	if d.Endpoint == "" {
		d.Endpoint = "https://huggingface.co"
	}
	if d.Files == nil && !d.Dataset {
		d.Files = defaultFiles
	}
	return d, nil
}

// repositoryInfo is what the server tells of a revision.
type repositoryInfo struct {
	SHA      string
	Siblings []struct{ RFilename string }
}

func (d *download) info(ctx context.Context) (info repositoryInfo, err error) {
	if err := d.getJSON(ctx, &info, "api", string(d.kind()), d.id, "revision", d.Revision); err != nil {
		return info, err
	}
	if !regexp.MustCompile(`^[0-9a-f]{40}$`).MatchString(info.SHA) {
		return info, fmt.Errorf("the server tells commit %q, want 40 hexadecimal digits", info.SHA)
	}
	return info, nil
}

func (d *download) run(ctx context.Context) (string, error) {
	info, err := d.info(ctx)
	if err != nil {
		return "", err
	}
	dir, found := filepath.Join(d.repo, "snapshots", info.SHA), false
	for _, s := range info.Siblings {
		if !d.wants(s.RFilename) {
			continue
		}
		found = true
		if err := d.file(ctx, dir, info.SHA, s.RFilename); err != nil {
			return "", fmt.Errorf("%s: %w", s.RFilename, err)
		}
	}
	if !found {
		return "", fmt.Errorf("revision %s has no file that matches %q", info.SHA, d.Files)
	}
	if d.Revision == info.SHA {
		return dir, nil
	}
	ref := filepath.Join(d.repo, "refs", filepath.FromSlash(d.Revision))
	return dir, errors.Join(os.MkdirAll(filepath.Dir(ref), 0o755), atomicfile.WriteBytes(ref, []byte(info.SHA)))
}

// wants reports whether a file is to be downloaded. A name that leads out of the folder is not.
func (d *download) wants(name string) bool {
	if d.Files == nil {
		return filepath.IsLocal(filepath.FromSlash(name))
	}
	for _, p := range d.Files {
		if ok, err := path.Match(p, name); err == nil && ok && filepath.IsLocal(filepath.FromSlash(name)) {
			return true
		}
	}
	return false
}

// path is that of the repository under the endpoint: a model's is its id alone.
func (d *download) path() string {
	if d.Dataset {
		return string(datasets) + "/" + d.id
	}
	return d.id
}

// request asks for a path under the endpoint.
func (d *download) request(ctx context.Context, client *http.Client, method string, parts ...string) (*http.Response, error) {
	for i, p := range parts[1:] {
		var escaped []string
		for _, name := range strings.Split(p, "/") {
			escaped = append(escaped, url.PathEscape(name))
		}
		parts[i+1] = strings.Join(escaped, "/")
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(d.Endpoint, "/")+"/"+strings.Join(parts, "/"), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity") // else the length is that of something else
	if d.Token != "" {
		req.Header.Set("Authorization", "Bearer "+d.Token)
	}
	resp, err := client.Do(req)
	if err == nil && resp.StatusCode >= 400 {
		resp.Body.Close()
		err = fmt.Errorf("%s %s: %s", method, req.URL, resp.Status)
		if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
			err = fmt.Errorf("%w; the model may not exist, or need Options.Token", err)
		}
	}
	return resp, err
}

func (d *download) getJSON(ctx context.Context, to any, parts ...string) error {
	resp, err := d.request(ctx, d.client, http.MethodGet, parts...)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(io.LimitReader(resp.Body, 64<<20)).Decode(to)
}

// file brings one file into blobs, unless it is there, and links it into the snapshot.
func (d *download) file(ctx context.Context, dir, commit, name string) error {
	link := filepath.Join(dir, filepath.FromSlash(name))
	if _, err := os.Stat(link); err == nil {
		return nil
	}
	etag, err := d.etag(ctx, commit, name)
	if err != nil {
		return err
	}
	blob := filepath.Join(d.repo, "blobs", etag)
	if err := errors.Join(os.MkdirAll(filepath.Dir(blob), 0o755), os.MkdirAll(filepath.Dir(link), 0o755)); err != nil {
		return err
	}
	if _, err := os.Stat(blob); err != nil {
		if err := d.blob(ctx, blob, etag, commit, name); err != nil {
			return err
		}
	}
	target, err := filepath.Rel(filepath.Dir(link), blob)
	if err != nil {
		return err
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) { // a link that leads nowhere
		return err
	}
	return os.Symlink(target, link)
}

var etagPattern = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// etag asks for the hash of a file: SHA-256 of large ones, which are stored elsewhere; of others the one that git has.
func (d *download) etag(ctx context.Context, commit, name string) (string, error) {
	here := *d.client // the header is the endpoint's own, not that of where it leads
	here.CheckRedirect = func(next *http.Request, before []*http.Request) error {
		if next.URL.Host == before[0].URL.Host && len(before) < 10 { // a model that was renamed
			return nil
		}
		return http.ErrUseLastResponse
	}
	resp, err := d.request(ctx, &here, http.MethodHead, d.path(), "resolve", commit, name)
	if err != nil {
		return "", err
	}
	resp.Body.Close()
	etag := resp.Header.Get("X-Linked-Etag")
	if etag == "" {
		etag = resp.Header.Get("Etag")
	}
	etag = strings.Trim(strings.TrimPrefix(etag, "W/"), `"`)
	if !etagPattern.MatchString(etag) {
		return "", fmt.Errorf("the server tells ETag %q, want a SHA-1 or SHA-256", etag)
	}
	return etag, nil
}

// blob downloads a file and checks it.
func (d *download) blob(ctx context.Context, to, etag, commit, name string) error {
	resp, err := d.request(ctx, d.client, http.MethodGet, d.path(), "resolve", commit, name)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return atomicfile.Write(to, func(w io.Writer) error {
		var sum hash.Hash = sha256.New()
		if len(etag) == 2*sha1.Size {
			if resp.ContentLength < 0 {
				return errors.New("the server does not tell the length, which git's hash needs")
			}
			sum = sha1.New()
			fmt.Fprintf(sum, "blob %d\x00", resp.ContentLength)
		}
		if _, err := io.Copy(io.MultiWriter(w, sum), resp.Body); err != nil {
			return err
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != etag {
			return fmt.Errorf("what came has hash %s, want %s; try again", got, etag)
		}
		return nil
	})
}
