package seam

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

const maxMemoryKind = 64 // the C half keeps the name in so many bytes

// rewrite turns the text of a program as go-xla prints it into what is compiled: placeholders get their bodies, settings
// are taken out and returned. Whatever it does not understand it refuses.
func rewrite(text string) (string, *Program, error) {
	const start, end = "  func.func @loris_", "\n  }"
	p := &Program{}
	var b strings.Builder
	var others []string // the text between placeholders
	ops := map[string]bool{}
	for rest := text; ; {
		before, function, found := strings.Cut(rest, start)
		b.WriteString(before)
		others = append(others, before)
		if !found {
			break
		}
		// A function ends with the first brace at its own indentation.
		if function, rest, found = strings.Cut("loris_"+function, end+"\n"); !found {
			return "", nil, errors.New("go-xla closes functions in another way than this version of the seam knows")
		}
		header, _, _ := strings.Cut(function, "\n")
		f, err := parseHeader(header)
		if err != nil {
			return "", nil, fmt.Errorf("function %.60q: %w", header, err)
		}
		if strings.HasPrefix(f.name, programPrefix) {
			if err := p.read(f); err != nil {
				return "", nil, err
			}
			continue
		}
		if f.name != opName(f.in, f.out, f.content) {
			return "", nil, fmt.Errorf("operation %s is not what its checksum says: signature (%s) -> (%s), body of %d bytes", f.name, f.in, f.out, len(f.content))
		}
		ops[f.name] = true
		fmt.Fprintf(&b, "  func.func private @%s%s {\n%s%s\n", f.name, f.signature(), strings.TrimRight(f.content, "\n"), end)
	}
	if err := checkMentions(others, ops); err != nil {
		return "", nil, err
	}
	out, err := p.apply(b.String())
	return out, p, err
}

// checkMentions looks for placeholders outside of what was replaced: calls of unknown ones, other forms.
func checkMentions(others []string, ops map[string]bool) error {
	for i, text := range others {
		if i == 0 {
			_, text, _ = strings.Cut(text, "\n") // the first line has the program's own name
		}
		for _, mark := range []string{"@" + opPrefix, "@" + programPrefix, "%" + bodyPrefix} {
			for at := 0; ; at++ {
				k := strings.Index(text[at:], mark)
				if k < 0 {
					break
				}
				at += k
				name := text[at+1:]
				if n := strings.IndexFunc(name, func(r rune) bool { return !isIdentifier(r) }); n >= 0 {
					name = name[:n]
				}
				if !ops[name] {
					return fmt.Errorf("%.60s is mentioned, but no such placeholder was found: go-xla prints functions in another way than this version of the seam knows", name)
				}
			}
		}
	}
	return nil
}

func isIdentifier(r rune) bool {
	return r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}

// header is the first line of a placeholder: its name, the types of parameters and results, and what the first
// parameter's name spells.
type header struct {
	name, in, out, content string
}

func parseHeader(line string) (h header, err error) {
	name, rest, ok := strings.Cut(line, "(")
	parameters, results, ok2 := strings.Cut(rest, ") -> ")
	results, ok3 := strings.CutSuffix(results, " {")
	if !ok || !ok2 || !ok3 {
		return h, errors.New("not of the form @name(parameters) -> results {")
	}
	h.name = name
	h.out = strings.TrimSuffix(strings.TrimPrefix(results, "("), ")")
	for i, p := range strings.Split(parameters, ", %") {
		name, typ, ok := strings.Cut(strings.TrimPrefix(p, "%"), ": ")
		content, isBody := strings.CutPrefix(name, bodyPrefix)
		if !ok || isBody != (i == 0) || !isBody && name != "a"+strconv.Itoa(i) {
			return h, fmt.Errorf("parameter %d, %.40q, is none that the seam made", i, p)
		}
		if isBody {
			text, err := hex.DecodeString(content)
			if err != nil {
				return h, fmt.Errorf("parameter 0: %w", err)
			}
			h.content = string(text)
		} else {
			h.in += ", "
		}
		h.in += typ
	}
	return h, nil
}

// signature is parameters and results as the body knows them.
func (h header) signature() string {
	var b strings.Builder
	for i, t := range strings.Split(h.in, ", ") {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%%a%d: %s", i, t)
	}
	return "(" + b.String() + ") -> (" + h.out + ")"
}

// read adds the settings that a function carries.
func (p *Program) read(h header) error {
	var q Program
	if h.name != programPrefix+checksum(h.content) {
		return fmt.Errorf("settings %s are not what their checksum says", h.name)
	}
	if err := json.Unmarshal([]byte(h.content), &q); err != nil {
		return fmt.Errorf("settings of the program: %w", err)
	}
	return p.merge(q)
}

// apply changes @main: donated inputs get their attribute, and a copying program is checked to be an identity.
func (p *Program) apply(text string) (string, error) {
	if len(p.Donate) == 0 && p.CopyTo == "" {
		return text, nil
	}
	const start = "  func.func @main("
	at := strings.Index(text, start)
	if at < 0 {
		return "", errors.New("the program has no @main")
	}
	at += len(start)
	parameters, size, err := splitParameters(text[at:])
	if err != nil {
		return "", err
	}
	if p.CopyTo != "" {
		names := make([]string, len(parameters))
		for i, parameter := range parameters {
			names[i], _, _ = strings.Cut(parameter, ":")
		}
		_, body, _ := strings.Cut(text[at+size:], " {\n")
		_, returned, _ := strings.Cut(body, "(")
		if op := strings.TrimSuffix(body, returned); op != `    "stablehlo.return"(` && op != `    "func.return"(` || !strings.HasPrefix(returned, strings.Join(names, ", ")+") ") {
			return "", fmt.Errorf("a program that copies to %q must return its inputs, all and in order, and do nothing else", p.CopyTo)
		}
	}
	for _, d := range p.Donate {
		if d < 0 || d >= len(parameters) {
			return "", fmt.Errorf("input %d cannot be donated: the program has %d", d, len(parameters))
		}
		const donor = "jax.buffer_donor = true"
		typed, attributes, has := strings.Cut(parameters[d], " {")
		switch {
		case strings.Contains(attributes, donor):
		case has:
			parameters[d] = typed + " {" + donor + "," + attributes
		default:
			parameters[d] = typed + " {" + donor + "}"
		}
	}
	return text[:at] + strings.Join(parameters, ", ") + text[at+size:], nil
}

// splitParameters splits the parameters of a function, of which text begins with the first, at the commas between them.
// size is their length up to the closing parenthesis.
func splitParameters(text string) (parameters []string, size int, err error) {
	from, depth, quoted := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case strings.IndexByte("(<[{", c) >= 0:
			depth++
		case c == ')' && depth == 0:
			if i > from {
				parameters = append(parameters, text[from:i])
			}
			return parameters, i, nil
		case strings.IndexByte(")>]}", c) >= 0:
			depth--
		case c == ',' && depth == 0:
			parameters = append(parameters, text[from:i])
			for i+1 < len(text) && text[i+1] == ' ' {
				i++
			}
			from = i + 1
		}
	}
	return nil, 0, errors.New("the parameters of @main do not end")
}

// field is a length-delimited field of a protocol buffer message.
func field(number byte, value []byte) []byte {
	return append(binary.AppendUvarint([]byte{number<<3 | 2}, uint64(len(value))), value...)
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
