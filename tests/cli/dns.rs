//! A DNS server of the test's own: it knows a few records, and says of everything else that it does not exist.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// What stands behind a name.
pub enum Record {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    /// Priority, weight, port, target.
    Srv(u16, u16, u16, &'static str),
    /// Order, preference, flags, services, replacement.
    Naptr(u16, u16, &'static str, &'static str, &'static str),
}

impl Record {
    const fn kind(&self) -> u16 {
        match self {
            Self::A(_) => 1,
            Self::Aaaa(_) => 28,
            Self::Srv(..) => 33,
            Self::Naptr(..) => 35,
        }
    }

    fn data(&self) -> Vec<u8> {
        let numbers = |numbers: &[u16]| numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>();
        match self {
            Self::A(ip) => ip.octets().to_vec(),
            Self::Aaaa(ip) => ip.octets().to_vec(),
            Self::Srv(priority, weight, port, target) => {
                [numbers(&[*priority, *weight, *port]), encoded(target)].concat()
            }
            Self::Naptr(order, preference, flags, services, replacement) => {
                let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
                let texts = [text(flags), text(services), text("")].concat();
                [numbers(&[*order, *preference]), texts, encoded(replacement)].concat()
            }
        }
    }
}

/// A name as on the wire (RFC 1035 §3.1); `""` is the root.
fn encoded(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    bytes.push(0);
    bytes
}

pub struct Dns {
    pub address: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Dns {
    pub fn serve(zone: Vec<(&'static str, Record)>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while !ends.load(Ordering::Acquire) {
                if let Ok((len, from)) = socket.recv_from(&mut buffer)
                    && let Some(answer) = answer(&buffer[..len], &zone)
                {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        Self { address, is_over, thread: Some(thread) }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        // Wakes it.
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[], self.address).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn answer(query: &[u8], zone: &[(&str, Record)]) -> Option<Vec<u8>> {
    let end = 12 + query.get(12..)?.iter().position(|byte| *byte == 0)? + 1;
    let name = query[12..end].to_ascii_lowercase();
    let kind = u16::from_be_bytes([*query.get(end)?, *query.get(end + 1)?]);
    let of_name = || zone.iter().filter(|(owner, _)| encoded(owner) == name).map(|(_, record)| record);
    let found: Vec<&Record> = of_name().filter(|record| record.kind() == kind).collect();
    let code = if of_name().next().is_some() { 0 } else { 3 };
    let mut bytes = [&query[..2], &[0x85, 0x80 | code, 0, 1, 0, found.len() as u8, 0, 0, 0, 0]].concat();
    bytes.extend(query.get(12..end + 4)?);
    for record in found {
        let data = record.data();
        // The name of the question, class IN, a minute.
        bytes.extend([0xC0, 12]);
        bytes.extend(record.kind().to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 60]);
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
    }
    Some(bytes)
}
