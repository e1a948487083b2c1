package xattrmap

import (
	"errors"
	"fmt"
	"strings"
)

// maxRules bounds the work for one name.
const maxRules = 256

var kinds = map[string]kind{"ok": ok, "prefix": prefix, "bad": bad, "unsupported": unsupported}

// shorthand is the type of a rule that stands for several.
const shorthand = "map"

// forms is the language for error messages.
const forms = ":TYPE:SCOPE:KEY:PREPEND: with TYPE prefix, ok, bad or unsupported and SCOPE client, server or all, " +
	"or :map:KEY:PREPEND: at the end, where ':' may be any character"

// Parse reads the rules. The error names the rule and what it should be.
func Parse(rules string) (*Map, error) {
	m := &Map{}
	for rest := strings.TrimSpace(rules); rest != ""; rest = strings.TrimSpace(rest) {
		fields, length, err := cut(rest)
		text := rest[:length]
		rest = rest[length:]
		if err == nil {
			err = m.add(fields, strings.TrimSpace(rest) == "")
		}
		if err != nil {
			return nil, fmt.Errorf("rule %q: %w; a rule is %s", text, err, forms)
		}
	}
	client, server := false, false
	for i := range m.rules {
		client = client || m.rules[i].client && m.rules[i].key == ""
		server = server || m.rules[i].server && m.rules[i].prepend == ""
	}
	if !client || !server {
		return nil, fmt.Errorf("rules %q: no rule decides about all the other names; :ok:all::: or :bad:all::: at the end would", rules)
	}
	return m, nil
}

// cut returns the fields of the rule at the start of s and its length in bytes.
func cut(s string) (fields []string, length int, err error) {
	separator := s[:1]
	for at, want := 1, 4; len(fields) < want; {
		end := strings.Index(s[at:], separator)
		if end < 0 {
			return nil, len(s), fmt.Errorf("a field does not end with %q", separator)
		}
		fields = append(fields, s[at:at+end])
		at += end + 1
		if fields[0] == shorthand {
			want = 3
		}
		length = at
	}
	return fields, length, nil
}

// add adds the rule with these fields, which is the last one or not.
func (m *Map) add(fields []string, last bool) error {
	key, prepend := fields[len(fields)-2], fields[len(fields)-1]
	if len(key) > NameMax || len(prepend) > NameMax {
		return fmt.Errorf("no name is longer than %d bytes", NameMax)
	}
	if fields[0] == shorthand {
		if !last {
			return errors.New("a map rule has to be the last")
		}
		if prepend == "" {
			return errors.New("a map rule needs a prefix")
		}
		m.rules = append(m.rules, expand(key, prepend)...)
		return nil
	}
	k, known := kinds[fields[0]]
	if !known {
		return fmt.Errorf("there is no type %q", fields[0])
	}
	r := rule{kind: k, key: key, prepend: prepend}
	switch fields[1] {
	case "client":
		r.client = true
	case "server":
		r.server = true
	case "all":
		r.client, r.server = true, true
	default:
		return fmt.Errorf("there is no scope %q", fields[1])
	}
	if len(m.rules) == maxRules {
		return fmt.Errorf("there are more than %d rules", maxRules)
	}
	m.rules = append(m.rules, r)
	return nil
}

// expand is the rules that a map rule is short for. The host's own names that
// begin with the key would be taken for the guest's, and the guest must not
// reach the names behind the prefix directly.
func expand(key, prepend string) []rule {
	move := rule{kind: prefix, client: true, server: true, key: key, prepend: prepend}
	if key == "" {
		return []rule{move, {kind: bad, client: true, server: true}}
	}
	return []rule{
		move,
		{kind: bad, server: true, prepend: key},
		{kind: bad, client: true, key: prepend},
		{kind: ok, client: true, server: true},
	}
}
