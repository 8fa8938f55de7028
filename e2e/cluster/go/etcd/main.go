// Command etcd is etcd's own server; its module has no command that the module proxy could install by itself.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
