// A Go server: net.Listen on all addresses (dual stack), one goroutine per connection, echoes each line
// with the client's address before it. Ends when it is told "end".
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
)

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		panic(err)
	}
	fmt.Println("listening on", listener.Addr())
	for {
		connection, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		go func() {
			defer connection.Close()
			lines := bufio.NewScanner(connection)
			for lines.Scan() {
				if lines.Text() == "end" {
					os.Exit(0)
				}
				fmt.Fprintln(connection, connection.RemoteAddr(), lines.Text())
			}
		}()
	}
}
