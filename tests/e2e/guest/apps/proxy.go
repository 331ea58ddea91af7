// Go: listens on both families with one socket and passes connections on. io.Copy between two TCP connections is
// splice(2) there.
//
//	proxy PORT HOST:PORT
package main

import (
	"io"
	"log"
	"net"
	"os"
)

func pass(from, to *net.TCPConn, done chan<- struct{}) {
	io.Copy(to, from)
	to.CloseWrite()
	done <- struct{}{}
}

func serve(client *net.TCPConn, target string) {
	defer client.Close()
	far, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer far.Close()
	done := make(chan struct{}, 2)
	go pass(client, far.(*net.TCPConn), done)
	go pass(far.(*net.TCPConn), client, done)
	<-done
	<-done
}

func main() {
	listener, err := net.Listen("tcp", ":"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(client.(*net.TCPConn), os.Args[2])
	}
}
