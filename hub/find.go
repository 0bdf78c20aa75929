package hub

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// defaultRevision is the branch that is meant where none is named.
const defaultRevision = "main"

var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$`)

// IsID reports whether s is spelled as the id of a model: one or two names of letters, digits, dots, dashes and underscores.
func IsID(s string) bool {
	return idPattern.MatchString(s) && !strings.Contains(s, "..") && !strings.Contains(s, "--") && len(s) <= 96
}

// CacheDir returns the folder of the cache; see the package comment.
func CacheDir() (string, error) {
	if dir := os.Getenv("HF_HUB_CACHE"); dir != "" {
		return dir, nil
	}
	if dir := os.Getenv("HF_HOME"); dir != "" {
		return filepath.Join(dir, "hub"), nil
	}
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "huggingface", "hub"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("hub: no folder for the cache: %w; set HF_HUB_CACHE", err)
	}
	return filepath.Join(home, ".cache", "huggingface", "hub"), nil
}

// Find returns the folder of a model in the cache. revision is a branch, a tag or a whole commit; "" means main. Where it is
// not there the error is an fs.ErrNotExist.
func Find(id, revision string) (string, error) {
	return findCached(models, id, revision)
}

// FindDataset is [Find] for a data set.
func FindDataset(id, revision string) (string, error) { return findCached(datasets, id, revision) }

// kind of a repository: as in the cache's folders and the server's paths.
type kind string

const (
	models   kind = "models"
	datasets kind = "datasets"
)

func (o Options) kind() kind {
	if o.Dataset {
		return datasets
	}
	return models
}

// noun is what error messages call one.
func (k kind) noun() string {
	if k == datasets {
		return "data set"
	}
	return "model"
}

func findCached(k kind, id, revision string) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	return find(cache, k, id, revision)
}

// Locate returns path where something is there, else what [Find] finds under it as an id.
func Locate(path string) (string, error) {
	_, err := os.Stat(path)
	switch {
	case err == nil:
		return path, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	case !IsID(path):
		return "", fmt.Errorf("no such folder or file: %w", err)
	}
	dir, err := Find(path, "")
	if err != nil {
		return "", fmt.Errorf("no such folder or file; %w", err)
	}
	return dir, nil
}

func find(cache string, k kind, id, revision string) (string, error) {
	repo, err := repository(cache, k, id, &revision)
	if err != nil {
		return "", err
	}
	missing := func() (string, error) {
		return "", fmt.Errorf("hub: %s %q of revision %q is not in the cache %s; call hub.Download, or huggingface-cli download: %w", k.noun(), id, revision, cache, fs.ErrNotExist)
	}
	commit := revision
	if raw, err := os.ReadFile(filepath.Join(repo, "refs", filepath.FromSlash(revision))); err == nil {
		commit = strings.TrimSpace(string(raw))
	}
	if !filepath.IsLocal(commit) {
		return missing()
	}
	dir := filepath.Join(repo, "snapshots", filepath.FromSlash(commit))
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return missing()
	}
	return dir, nil
}

// repository returns the folder of a model or data set in the cache, and sets the default revision.
func repository(cache string, k kind, id string, revision *string) (string, error) {
	if !IsID(id) {
		return "", fmt.Errorf("hub: %q is no id of a %s; want ORGANIZATION/NAME", id, k.noun())
	}
	if *revision == "" {
		*revision = defaultRevision
	}
	if !filepath.IsLocal(filepath.FromSlash(*revision)) {
		return "", fmt.Errorf("hub: %s %q: %q is no revision; want a branch, a tag or a commit", k.noun(), id, *revision)
	}
	return filepath.Join(cache, string(k)+"--"+strings.ReplaceAll(id, "/", "--")), nil
}
