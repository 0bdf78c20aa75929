package peft

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// modelCard is README.md: the metadata that PEFT gives the Hugging Face Hub, and the adapter in a few lines.
func modelCard(c LoraConfig) []byte {
	return card("LoRA", c.BaseModelNameOrPath, fmt.Sprintf("| | |\n| --- | --- |\n| r | %d |\n| lora_alpha | %v |\n| lora_dropout | %v |\n| rank-stabilized | %v |\n",
		c.R, c.LoraAlpha, c.LoraDropout, c.UseRSLora))
}

// methodCard is that of adapters of another tuner.
func methodCard(peftType string, fields object) []byte {
	base := ""
	for _, m := range fields {
		if name, ok := m.value.(string); ok && m.key == "base_model_name_or_path" {
			base = name
		}
	}
	return card(peftType, base, "")
}

func card(kind, base, table string) []byte {
	var b bytes.Buffer
	tags := []string{strings.ToLower(kind), "transformers"}
	b.WriteString("---\n")
	if base != "" {
		fmt.Fprintf(&b, "base_model: %s\n", yamlScalar(base))
		tags = append(tags, "base_model:adapter:"+base)
	}
	b.WriteString("library_name: peft\npipeline_tag: text-generation\ntags:\n")
	slices.Sort(tags)
	for _, tag := range tags {
		fmt.Fprintf(&b, "- %s\n", yamlScalar(tag))
	}
	fmt.Fprintf(&b, "---\n\n# %s adapter\n\n", kind)
	model := "base"
	if base != "" {
		fmt.Fprintf(&b, "A %s adapter of `%s`.\n\n", kind, base)
		model = fmt.Sprintf("AutoModelForCausalLM.from_pretrained(%s)", appendPythonJSON(nil, base, compact))
	}
	b.WriteString(table)
	fmt.Fprintf(&b, "\n```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\nmodel = PeftModel.from_pretrained(%s, \"path/to/this/folder\")\n```\n", model)
	b.WriteString("\nTrained with Loris, https://github.com/loris-ml/loris.\n")
	return b.Bytes()
}

// plainScalar are texts that YAML takes for strings as they stand: names, hub ids and paths.
var plainScalar = regexp.MustCompile(`^(?:\.{0,2}/|[A-Za-z_])[A-Za-z0-9./_+@-]*(?::[A-Za-z0-9./_+@-]+)*$`)

// yamlWords are those that YAML 1.1 takes for something else.
var yamlWords = regexp.MustCompile(`^(?i:y|n|yes|no|on|off|true|false|null)$`)

// yamlScalar writes a string so that YAML reads it back: JSON strings are YAML.
func yamlScalar(s string) string {
	if plainScalar.MatchString(s) && !yamlWords.MatchString(s) {
		return s
	}
	return string(appendPythonJSON(nil, s, compact))
}
