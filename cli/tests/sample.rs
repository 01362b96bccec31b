//! The sample function as a process: its routes, and how it ends.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);

struct Sample {
    child: Child,
    port: u16,
}

impl Sample {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(env!("CARGO_BIN_EXE_dormouse"))
            .arg("sample")
            .env("PORT", port.to_string())
            .env("HOST", "127.0.0.1")
            .env("K_SERVICE", "hello")
            .env("K_REVISION", "hello-1")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let sample = Self { child, port };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < LIMIT, "it does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        sample
    }

    /// Sends a request on a connection of its own; the answer is read to its end by [`whole`].
    fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let (line, body) = request.split_once('\n').unwrap_or((request, ""));
        let head = format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        stream
    }

    fn call(&self, request: &str) -> String {
        whole(self.send(request))
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn whole(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn every_route_answers() {
    let sample = Sample::start();
    assert!(sample.call("GET /").contains("Hello from hello, revision hello-1, instance "));
    let echo = sample.call("PUT /echo/a?b=c\nping");
    for part in ["HTTP/1.1 200 OK\r\n", "x-echo-method: PUT\r\n", "x-echo-path: /echo/a?b=c\r\n", "\r\n\r\nping"] {
        assert!(echo.contains(part), "{part}: {echo}");
    }
    assert!(sample.call("GET /delay?ms=1").ends_with("waited 1 ms\n"));
    assert!(sample.call("GET /status/503").starts_with("HTTP/1.1 503 "));
    assert!(sample.call("GET /status/99").starts_with("HTTP/1.1 400 "));
    let stream = sample.call("GET /stream?chunks=3&ms=1");
    assert!(["chunk 1 of 3\n", "chunk 2 of 3\n", "chunk 3 of 3\n"].iter().all(|c| stream.contains(c)), "{stream}");
    assert!(sample.call("GET /env").contains("K_SERVICE=hello\n"));
    assert!(sample.call("GET /nowhere").starts_with("HTTP/1.1 404 "));
}

#[test]
fn a_crash_ends_the_process_without_an_answer() {
    let mut sample = Sample::start();
    let mut bytes = Vec::new();
    // A broken connection may be told as an error or as an early end.
    let _ = sample.send("GET /crash").read_to_end(&mut bytes);
    assert!(bytes.is_empty());
    assert_eq!(sample.child.wait().unwrap().code(), Some(1));
}

#[test]
fn told_to_end_it_answers_what_it_has_begun() {
    let mut sample = Sample::start();
    let mut stream = sample.send("GET /stream?chunks=20&ms=20");
    let mut first = [0; 1];
    stream.read_exact(&mut first).unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(sample.child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(whole(stream).contains("chunk 20 of 20\n"));
    assert_eq!(sample.child.wait().unwrap().code(), Some(0));
}
