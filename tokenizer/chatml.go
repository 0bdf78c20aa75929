package tokenizer

import (
	"fmt"
	"strings"
)

// The templates of the ChatML family, in canonical spelling (see canonicalTemplate).
const (
	chatMLLoop       = `{%for message in messages%}`
	chatMLTurn       = `{{'<|im_start|>'+message['role']+'\n'+message['content']+'<|im_end|>\n'}}{%endfor%}`
	chatMLPrompt     = `{%if add_generation_prompt%}{{'<|im_start|>assistant\n'}}{%endif%}`
	chatMLUndefined  = `{%if not add_generation_prompt is defined%}{%set add_generation_prompt=false%}{%endif%}`
	chatMLSystemHead = `{%if loop.first and messages[0]['role']!='system'%}{{'<|im_start|>system\n`
	chatMLSystemTail = `<|im_end|>\n'}}{%endif%}`
)

// newChatML recognises a template: plain turns, with or without a default system message (SmolLM2, Qwen 1.5).
func newChatML(template string) (*chatML, error) {
	s, ok := canonicalTemplate(template)
	if ok {
		s = strings.TrimPrefix(s, chatMLUndefined)
		s, ok = strings.CutPrefix(s, chatMLLoop)
	}
	c := &chatML{}
	if rest, found := strings.CutPrefix(s, chatMLSystemHead); ok && found {
		var system string
		if system, s, ok = strings.Cut(rest, chatMLSystemTail); ok {
			c.defaultSystem, ok = unescape(system)
		}
	}
	s, c.prompt = strings.CutSuffix(s, chatMLPrompt)
	if ok && s == chatMLTurn {
		return c, nil
	}
	return nil, fmt.Errorf("tokenizer: the chat template %.120q is not supported; want a template of the ChatML family", template)
}

// canonicalTemplate spells a template in one way without changing what it means: no blanks inside tags other than between
// words, single quotes, message['role'] for message.role, newlines in strings as \n, adjacent literals joined, no newline
// after a block tag (which trim_blocks drops). It reports false for what it cannot read.
func canonicalTemplate(s string) (string, bool) {
	var b strings.Builder
	s = strings.TrimSuffix(s, "\n") // Jinja's keep_trailing_newline is off
	for s != "" {
		open := strings.IndexByte(s, '{')
		if open < 0 || open+1 >= len(s) {
			b.WriteString(s)
			break
		}
		b.WriteString(s[:open])
		s = s[open:]
		var end string
		switch s[:2] {
		case "{%":
			end = "%}"
		case "{{":
			end = "}}"
		default:
			return "", false
		}
		inner, rest, ok := canonicalTag(s[2:], end)
		if !ok {
			return "", false
		}
		b.WriteString(s[:2] + inner + end)
		if s = rest; end == "%}" {
			s = strings.TrimPrefix(s, "\n")
		}
	}
	return strings.ReplaceAll(b.String(), "'+'", ""), true
}

// canonicalTag reads the inside of a tag up to end and returns what follows it.
func canonicalTag(s, end string) (inner, rest string, ok bool) {
	var b strings.Builder
	for s != "" {
		switch c := s[0]; {
		case strings.HasPrefix(s, end):
			return b.String(), s[len(end):], true
		case c == '\'' || c == '"':
			k := strings.IndexByte(s[1:], c)
			if k < 0 {
				return "", "", false
			}
			literal := s[1 : 1+k]
			if strings.ContainsAny(literal, `'"`) || strings.HasSuffix(literal, `\`) {
				return "", "", false
			}
			b.WriteString("'" + strings.ReplaceAll(literal, "\n", `\n`) + "'")
			s = s[k+2:]
		case c == ' ' || c == '\t' || c == '\n':
			s = strings.TrimLeft(s, " \t\n")
			if inner := b.String(); inner != "" && s != "" && isWord(rune(inner[len(inner)-1])) && isWord(rune(s[0])) {
				b.WriteByte(' ')
			}
		case strings.HasPrefix(s, "message.role"):
			b.WriteString("message['role']")
			s = s[len("message.role"):]
		case strings.HasPrefix(s, "message.content"):
			b.WriteString("message['content']")
			s = s[len("message.content"):]
		default:
			b.WriteByte(c)
			s = s[1:]
		}
	}
	return "", "", false
}

// unescape reads the inside of a canonical literal, where only \n is known.
func unescape(s string) (string, bool) {
	s = strings.ReplaceAll(s, `\n`, "\n")
	return s, !strings.ContainsAny(s, `\'`)
}
