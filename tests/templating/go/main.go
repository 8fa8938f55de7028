// Reads a JSON list of templates on stdin, writes a JSON list: each one's parse tree as Go prints it, or null.
package main

import (
	"encoding/json"
	"os"
	"text/template"
)

func main() {
	var sources []string
	if err := json.NewDecoder(os.Stdin).Decode(&sources); err != nil {
		panic(err)
	}
	trees := make([]*string, len(sources))
	for i, source := range sources {
		if parsed, err := template.New("").Parse(source); err == nil {
			text := ""
			if parsed.Tree != nil {
				text = parsed.Tree.Root.String()
			}
			trees[i] = &text
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(trees); err != nil {
		panic(err)
	}
}
