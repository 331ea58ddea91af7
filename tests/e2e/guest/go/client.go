// A static Go client: no C library to preload anything into. Fetches over HTTP and echoes with half-close.
//
//	client http://HOST:PORT/bytes/N SHA256 ECHO_HOST:PORT
package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

const parallel = 16

func fetch(url, want string) error {
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, response.Body); err != nil {
		return err
	}
	if got := fmt.Sprintf("%x", hash.Sum(nil)); got != want {
		return fmt.Errorf("digest %s, want %s", got, want)
	}
	return nil
}

func echo(address string) error {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer connection.Close()
	said := bytes.Repeat([]byte("go says this again and again. "), 10000)
	go func() {
		connection.Write(said)
		connection.(*net.TCPConn).CloseWrite()
	}()
	heard, err := io.ReadAll(connection)
	if err == nil && !bytes.Equal(heard, said) {
		err = fmt.Errorf("heard %d bytes, said %d", len(heard), len(said))
	}
	return err
}

func main() {
	url, want, address := os.Args[1], os.Args[2], os.Args[3]
	var group sync.WaitGroup
	failures := make(chan error, 2*parallel)
	for i := 0; i < parallel; i++ {
		group.Add(2)
		go func() { defer group.Done(); failures <- fetch(url, want) }()
		go func() { defer group.Done(); failures <- echo(address) }()
	}
	group.Wait()
	close(failures)
	for err := range failures {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	fmt.Println("go: all digests and echoes equal")
}
