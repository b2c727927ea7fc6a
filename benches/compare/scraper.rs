//! Somebody who asks a server for its metrics once a second, as Prometheus does at its busiest.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::contestants::ADMIN_PORT;
use crate::network::{Network, SERVER};

const INTERVAL: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks until it is told to end.
pub struct Scraper {
    end: Sender<()>,
    thread: JoinHandle<io::Result<usize>>,
}

impl Scraper {
    /// On the load's side of the network, and on its core.
    pub fn begin(network: &Network) -> Self {
        let (end, ended) = mpsc::channel();
        // A thread is where the one is that starts it.
        let thread = network.load.run(move || {
            thread::spawn(move || {
                let mut pages = 0;
                loop {
                    scrape()?;
                    pages += 1;
                    if ended.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                        return Ok(pages);
                    }
                }
            })
        });
        Self { end, thread }
    }

    /// How many pages it has read.
    ///
    /// # Errors
    /// When the server did not give one.
    pub fn end(self) -> Result<usize, String> {
        drop(self.end);
        let pages = self.thread.join().map_err(|_| "a thread has panicked".to_owned())?;
        pages.map_err(|error| format!("cannot read /metrics: {error}"))
    }
}

fn scrape() -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((SERVER, ADMIN_PORT)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {SERVER}\r\n\r\n").as_bytes())?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    match page.contains("hairpin_relayed_packets_total") {
        true => Ok(()),
        false => Err(io::Error::other(page.lines().next().unwrap_or("nothing").to_owned())),
    }
}
