package seam

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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

// pluginIn returns the plugin of that name in a folder, the newest of several versions, or "".
func pluginIn(dir, name string) string {
	for _, pattern := range []string{"pjrt-plugin-%s", "pjrt_plugin_%s", "pjrt_c_api_%s_plugin"} {
		for _, version := range []string{"", "_v*"} {
			for _, ext := range []string{".so", ".dylib"} {
				// A pattern cannot be malformed: name has no special characters, and a folder that has some matches nothing.
				if files, _ := filepath.Glob(filepath.Join(dir, fmt.Sprintf(pattern, name+version)+ext)); len(files) > 0 {
					return slices.Max(files)
				}
			}
		}
	}
	return ""
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
