package dataset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/loris-ml/loris/hub"
)

// defaultSplit is the one that is meant where none is named.
const defaultSplit = "train"

// find returns the files that Load reads.
func (o Options) find(ctx context.Context, name string) ([]string, error) {
	info, err := os.Stat(name)
	switch {
	case err == nil && !info.IsDir():
		return []string{name}, nil
	case err == nil:
		return o.findIn(name)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("dataset: %w", err)
	case strings.ContainsAny(name, "*?["):
		return findPattern(name)
	}
	if ext, _ := extension(name); extensions[ext] != "" || !hub.IsID(name) {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	return o.findInHub(ctx, name)
}

func findPattern(pattern string) ([]string, error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil, fmt.Errorf("dataset: %s: %w", pattern, err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("dataset: no file matches %s", pattern)
	}
	return files, nil
}

// findInHub finds the files of a data set in the cache, where they are brought first if Download allows it.
func (o Options) findInHub(ctx context.Context, id string) ([]string, error) {
	if !o.Download {
		dir, err := hub.FindDataset(id, o.Revision)
		if errors.Is(err, fs.ErrNotExist) && o.Revision == "" {
			if prepared := o.findPrepared(id); prepared != "" {
				return o.findIn(prepared)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("dataset: no such folder or file; %w; or set Options.Download", err)
		}
		return o.findIn(dir)
	}
	h := o.Hub
	h.Dataset, h.Revision = true, o.Revision
	names, err := hub.List(ctx, id, h)
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	readme := ""
	if slices.Contains(names, readmeFile) {
		h.Files = []string{readmeFile}
		dir, err := hub.Download(ctx, id, h)
		if err != nil {
			return nil, fmt.Errorf("dataset: %w", err)
		}
		raw, err := os.ReadFile(filepath.Join(dir, readmeFile))
		if err != nil {
			return nil, fmt.Errorf("dataset: %w", err)
		}
		readme = string(raw)
	}
	chosen, err := o.choose(names, readme)
	if err != nil {
		return nil, fmt.Errorf("dataset: %s: %w", id, err)
	}
	h.Files = nil
	for _, name := range chosen {
		h.Files = append(h.Files, globEscape(name))
	}
	dir, err := hub.Download(ctx, id, h)
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	return under(dir, chosen), nil
}

// findPrepared returns the newest folder that datasets has prepared of a data set, "" if there is none: under
// $HF_DATASETS_CACHE, else $HF_HOME/datasets, ORG___NAME/CONFIGURATION/VERSION/HASH.
func (o Options) findPrepared(id string) string {
	cache := os.Getenv("HF_DATASETS_CACHE")
	if cache == "" {
		models, err := hub.CacheDir()
		if err != nil {
			return ""
		}
		cache = filepath.Join(filepath.Dir(models), "datasets")
	}
	namespace, name, ok := strings.Cut(id, "/")
	folder := snakeCase(namespace)
	if ok {
		folder = namespace + "___" + snakeCase(name)
	}
	folders, err := filepath.Glob(filepath.Join(globEscape(filepath.Join(cache, folder)), cmp.Or(globEscape(o.Name), "*"), "*", "*"))
	if err != nil {
		return ""
	}
	newest, when := "", time.Time{}
	for _, folder := range folders {
		if info, err := os.Stat(filepath.Join(folder, "dataset_info.json")); err == nil && info.ModTime().After(when) {
			newest, when = folder, info.ModTime()
		}
	}
	return newest
}

var capitals = []*regexp.Regexp{regexp.MustCompile(`([A-Z]+)([A-Z][a-z])`), regexp.MustCompile(`([a-z\d])([A-Z])`)}

// snakeCase is datasets.naming.camelcase_to_snakecase.
func snakeCase(name string) string {
	for _, c := range capitals {
		name = c.ReplaceAllString(name, "${1}_${2}")
	}
	return strings.ToLower(name)
}

func globEscape(s string) string { return regexp.MustCompile(`[\\*?\[]`).ReplaceAllString(s, `\$0`) }

// findIn finds the files of a split in a folder.
func (o Options) findIn(dir string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, file)
		names = append(names, filepath.ToSlash(name))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	readme, err := os.ReadFile(filepath.Join(dir, readmeFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	chosen, err := o.choose(names, string(readme))
	if err != nil {
		return nil, fmt.Errorf("dataset: %s: %w", dir, err)
	}
	return under(dir, chosen), nil
}

func under(dir string, names []string) (files []string) {
	for _, name := range names {
		files = append(files, filepath.Join(dir, filepath.FromSlash(name)))
	}
	return files
}

// choose returns the files of the split among those of a folder: as its README.md says, else as datasets guesses from their
// names (datasets.data_files): data/SPLIT-00000-of-00003.ext, folders named after splits, files named after splits, all files.
func (o Options) choose(names []string, readme string) ([]string, error) {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !o.isData(name) })
	slices.Sort(names)
	splits, err := o.configured(names, readme)
	if err != nil {
		return nil, err
	}
	if splits == nil {
		splits = guessSplits(names)
	}
	split := cmp.Or(o.Split, defaultSplit)
	chosen := sameFormat(splits[split])
	if len(chosen) == 0 {
		var known []string
		for s := range splits {
			known = append(known, s)
		}
		slices.Sort(known)
		if len(known) == 0 {
			return nil, errors.New("there are no data files; want .jsonl, .json, .csv, .tsv, .parquet, .arrow or .txt")
		}
		return nil, fmt.Errorf("there is no split %q (there is %s); set Options.Split", split, quoted(known))
	}
	return chosen, checkShards(chosen)
}

// isData tells data files from others, as datasets.data_files.FILES_TO_IGNORE and hidden ones.
func (o Options) isData(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".") || strings.HasPrefix(part, "__") {
			return false
		}
	}
	switch path.Base(name) {
	case readmeFile, "config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json":
		return false
	}
	ext, _ := extension(name)
	if ext == ".arrow" && strings.HasPrefix(path.Base(name), "cache-") { // what datasets' map and filter have made
		return false
	}
	return o.Format != "" || extensions[ext] != ""
}

var shardPattern = regexp.MustCompile(`^data/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}[^/]*\.[^/]*$`)

// splitWords are the names that tell a split, in the order in which datasets looks for them.
var splitWords = []struct {
	split string
	words []string
}{
	{"train", []string{"train", "training"}},
	{"validation", []string{"validation", "valid", "dev", "val"}},
	{"test", []string{"test", "testing", "eval", "evaluation"}},
}

func guessSplits(names []string) map[string][]string {
	splits := map[string][]string{}
	for _, name := range names {
		if m := shardPattern.FindStringSubmatch(name); m != nil {
			splits[m[1]] = append(splits[m[1]], name)
		}
	}
	if len(splits) > 0 {
		return splits
	}
	for _, inFolder := range []bool{true, false} {
		for _, s := range splitWords {
			named := wordPattern(s.words, inFolder)
			for _, name := range names {
				if named.MatchString(name) {
					splits[s.split] = append(splits[s.split], name)
				}
			}
		}
		if len(splits) > 0 {
			return splits
		}
	}
	if len(names) > 0 {
		splits[defaultSplit] = names
	}
	return splits
}

// wordPattern matches paths with one of the words as a word of the file's name or of a folder's.
func wordPattern(words []string, inFolder bool) *regexp.Regexp {
	const separator = `[-._ 0-9]`
	alternatives := "(?:" + strings.Join(words, "|") + ")"
	if inFolder {
		return regexp.MustCompile(`(?:^|/)(?:[^/]*` + separator + `)?` + alternatives + `(?:` + separator + `[^/]*)?/`)
	}
	return regexp.MustCompile(`(?:^|/)(?:[^/]*` + separator + `)?` + alternatives + separator + `[^/]*$`)
}

// sameFormat keeps the files of the extension that most of them have.
func sameFormat(names []string) []string {
	count := map[string]int{}
	for _, name := range names {
		ext, _ := extension(name)
		count[ext]++
	}
	best := ""
	for ext, n := range count {
		if n > count[best] || n == count[best] && ext < best {
			best = ext
		}
	}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		ext, _ := extension(name)
		return ext != best
	})
}

var numberedPattern = regexp.MustCompile(`^(.*)-(\d{5})-of-(\d{5})(.*)$`)

// checkShards refuses numbered files that are not all there: a download that was cut short.
func checkShards(names []string) error {
	seen := map[string]map[string]bool{}
	for _, name := range names {
		if m := numberedPattern.FindStringSubmatch(name); m != nil {
			set := m[1] + "-*-of-" + m[3] + m[4]
			if seen[set] == nil {
				seen[set] = map[string]bool{}
			}
			seen[set][m[2]] = true
		}
	}
	for set, numbers := range seen {
		_, of, _ := strings.Cut(set, "-*-of-")
		if want, err := strconv.Atoi(of[:5]); err == nil && len(numbers) != want {
			return fmt.Errorf("%d of %d files %s are here; download the others", len(numbers), want, set)
		}
	}
	return nil
}
