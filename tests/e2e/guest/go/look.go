// Resolves a name with Go's own resolver: no C library.
//
//	look NAME
package main

import (
	"context"
	"fmt"
	"net"
	"os"
)

func main() {
	resolver := net.Resolver{PreferGo: true}
	addresses, err := resolver.LookupHost(context.Background(), os.Args[1])
	if err != nil {
		fmt.Println("no address:", err)
		os.Exit(1)
	}
	for _, address := range addresses {
		fmt.Println("address", address)
	}
}
