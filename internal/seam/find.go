package seam

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// pluginPaths is go-xla's variable with the folders of PJRT plugins; it replaces the default ones.
const pluginPaths = "PJRT_PLUGIN_LIBRARY_PATH"

// Find returns the file of the PJRT plugin of that name, "cpu" or "cuda", where go-xla would find it: in the folders of
// PJRT_PLUGIN_LIBRARY_PATH, else in go-xla's own folders and those of LD_LIBRARY_PATH; each folder's nvidia subfolder
// counts too. An absolute path is returned as it is.
func Find(name string) (string, error) {
	if filepath.IsAbs(name) {
		info, err := os.Stat(name)
		if err == nil && info.IsDir() {
			err = errors.New("it is a folder; give the plugin's file")
		}
		if err != nil {
			return "", fmt.Errorf("PJRT plugin %s: %w", name, err)
		}
		return name, nil
	}
	if strings.ContainsAny(name, `/\*?[`) || name == "" {
		return "", fmt.Errorf("PJRT plugin %q: give a name, such as cpu or cuda, or an absolute path", name)
	}
	folders := pluginFolders()
	for _, folder := range folders {
		for _, dir := range []string{folder, filepath.Join(folder, "nvidia")} {
			if path := pluginIn(dir, name); path != "" {
				return filepath.Abs(path)
			}
		}
	}
	return "", fmt.Errorf("PJRT plugin %q: no file pjrt_c_api_%s_plugin.so in %s; set %s to the plugin's folder", name, name, strings.Join(folders, ", "), pluginPaths)
}

var pluginName = regexp.MustCompile(`^(pjrt-plugin-|pjrt_plugin_|pjrt_c_api_)(.+?)(_v[0-9][^_]*)?(_plugin)?\.(so|dylib)$`)

// pluginIn returns the plugin of that name in a folder, one without a version or the newest of several, or "".
func pluginIn(dir, name string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	best, rank := "", []int(nil)
	for _, e := range entries {
		m := pluginName.FindStringSubmatch(e.Name())
		if m == nil || m[2] != name || (m[1] == "pjrt_c_api_") != (m[4] != "") {
			continue
		}
		its := append([]int{-slices.Index(pluginPrefixes, m[1])}, version(m[3])...)
		if best == "" || slices.Compare(its, rank) >= 0 {
			best, rank = filepath.Join(dir, e.Name()), its
		}
	}
	return best
}

// pluginPrefixes are what plugins' names begin with; what comes first is taken first.
var pluginPrefixes = []string{"pjrt-plugin-", "pjrt_plugin_", "pjrt_c_api_"}

// version is that of "_v0.83.1" as numbers to compare; none is above all.
func version(text string) (numbers []int) {
	if text == "" {
		return []int{math.MaxInt}
	}
	for _, part := range strings.Split(strings.TrimPrefix(text, "_v"), ".") {
		n, _ := strconv.Atoi(part)
		numbers = append(numbers, n)
	}
	return numbers
}

func pluginFolders() []string {
	if paths, set := os.LookupEnv(pluginPaths); set {
		return slices.DeleteFunc(filepath.SplitList(paths), func(p string) bool { return p == "" })
	}
	var folders []string
	if home, err := os.UserHomeDir(); err == nil {
		folders = append(folders, filepath.Join(home, ".local/lib/go-xla"), filepath.Join(home, ".local/lib/gomlx/pjrt"))
	}
	folders = append(folders, "/usr/local/lib/go-xla", "/usr/local/lib/gomlx/pjrt")
	for _, p := range filepath.SplitList(os.Getenv("LD_LIBRARY_PATH")) {
		if filepath.IsAbs(p) {
			folders = append(folders, p)
		}
	}
	return append(folders, "/usr/local/lib", "/usr/lib", "/lib")
}
