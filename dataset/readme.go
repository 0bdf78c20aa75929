package dataset

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// readmeFile may say in its YAML header which files a configuration and its splits have.
const readmeFile = "README.md"

// configuration is one element of configs in that header.
type configuration struct {
	Name    string `yaml:"config_name"`
	Default bool   `yaml:"default"`
	DataDir string `yaml:"data_dir"`
	Files   any    `yaml:"data_files"` // a pattern, a list of patterns, or a list of {split, path}
}

// configured returns the files of the splits as the header says, nil if it says nothing.
func (o Options) configured(names []string, readme string) (map[string][]string, error) {
	configs, err := parseConfigurations(readme)
	if err != nil {
		return nil, err
	}
	if len(configs) == 0 {
		if o.Name != "" && o.Name != "default" {
			return nil, fmt.Errorf("Options.Name is %q, but %s names no configurations; unset it", o.Name, readmeFile)
		}
		return nil, nil
	}
	c, err := o.configuration(configs)
	if err != nil {
		return nil, err
	}
	if c.DataDir != "" {
		inside := strings.TrimSuffix(path.Clean(c.DataDir), "/") + "/"
		names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !strings.HasPrefix(name, inside) })
		if c.Files == nil {
			var relative []string
			for _, name := range names {
				relative = append(relative, strings.TrimPrefix(name, inside))
			}
			splits := guessSplits(relative)
			for _, files := range splits {
				for i := range files {
					files[i] = inside + files[i]
				}
			}
			return splits, nil
		}
	}
	if c.Files == nil {
		return guessSplits(names), nil
	}
	return c.splits(names)
}

func parseConfigurations(readme string) ([]configuration, error) {
	text, ok := strings.CutPrefix(strings.ReplaceAll(readme, "\r\n", "\n"), "---\n")
	if !ok {
		return nil, nil
	}
	text, _, ok = strings.Cut(text, "\n---")
	if !ok {
		return nil, nil
	}
	var header struct {
		Configs []configuration `yaml:"configs"`
	}
	if err := yaml.Unmarshal([]byte(text), &header); err != nil {
		return nil, fmt.Errorf("%s: the YAML header: %w", readmeFile, err)
	}
	return header.Configs, nil
}

// configuration chooses the named one, or the default.
func (o Options) configuration(configs []configuration) (configuration, error) {
	var known []string
	for i, c := range configs {
		if c.Name == "" {
			configs[i].Name = "default"
		}
		known = append(known, configs[i].Name)
	}
	for _, c := range configs {
		if c.Name == o.Name || o.Name == "" && (c.Default || c.Name == "default" || len(configs) == 1) {
			return c, nil
		}
	}
	if o.Name == "" {
		return configuration{}, fmt.Errorf("there are several configurations: %s; set Options.Name", quoted(known))
	}
	return configuration{}, fmt.Errorf("there is no configuration %q (there is %s); set Options.Name", o.Name, quoted(known))
}

// splits returns the files that the patterns of each split match.
func (c configuration) splits(names []string) (map[string][]string, error) {
	splits := map[string][]string{}
	add := func(split string, patterns any) error {
		list, ok := patterns.([]any)
		if !ok {
			list = []any{patterns}
		}
		for _, p := range list {
			pattern, ok := p.(string)
			if !ok {
				return fmt.Errorf("%s: configuration %q: data_files has %v; want patterns of file names", readmeFile, c.Name, p)
			}
			matches := globPattern(path.Join(c.DataDir, pattern))
			for _, name := range names {
				if matches.MatchString(name) && !slices.Contains(splits[split], name) {
					splits[split] = append(splits[split], name)
				}
			}
		}
		return nil
	}
	list, ok := c.Files.([]any)
	if !ok {
		list = []any{c.Files}
	}
	for _, e := range list {
		split, patterns := defaultSplit, e
		if fields, ok := e.(map[string]any); ok {
			name, ok := fields["split"].(string)
			if !ok {
				return nil, fmt.Errorf("%s: configuration %q: data_files has %v; want split and path", readmeFile, c.Name, e)
			}
			split, patterns = name, fields["path"]
		}
		if err := add(split, patterns); err != nil {
			return nil, err
		}
	}
	return splits, nil
}

var globTokens = regexp.MustCompile(`\*\*/|\*\*|\*|\?|\[[^]]*\]|[^*?\[]+|\[`)

// globPattern is a pattern as fsspec's glob has it: * and ? stay in a folder, ** does not.
func globPattern(glob string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString("^")
	for _, token := range globTokens.FindAllString(glob, -1) {
		switch {
		case token == "**/":
			b.WriteString("(?:.*/)?")
		case token == "**":
			b.WriteString(".*")
		case token == "*":
			b.WriteString("[^/]*")
		case token == "?":
			b.WriteString("[^/]")
		case len(token) > 2 && token[0] == '[':
			set := strings.ReplaceAll(token[1:len(token)-1], `\`, `\\`)
			b.WriteString("[" + strings.Replace(set, "!", "^", min(1, strings.Count(set[:1], "!"))) + "]")
		default:
			b.WriteString(regexp.QuoteMeta(token))
		}
	}
	compiled, err := regexp.Compile(b.String() + "$")
	if err != nil { // a set that is none
		return regexp.MustCompile("^" + regexp.QuoteMeta(glob) + "$")
	}
	return compiled
}
