//! What is measured, and what it should be.

use crate::contestants::Contestant;
use crate::flood;

/// One line of the tables.
#[derive(Clone, Debug)]
pub struct Row {
    /// For `--only` and files.
    pub name: &'static str,
    /// For readers.
    pub title: &'static str,
    /// The table it stands in.
    pub section: Section,
    /// How it is measured.
    pub what: What,
    /// What Hairpin's configuration has for it that is not there by default.
    pub configuration: &'static str,
    /// Whether the bare forwarder can do it.
    pub has_limit: bool,
    /// What Hairpin should need.
    pub goal: Goal,
}

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Against coturn.
    Comparison,
    /// From few allocations to many.
    Growth,
    /// With and without what an operator sees with: Hairpin only.
    Observing,
    /// Hairpin's packets relayed in the kernel, and by the process.
    Kernel,
}

/// A way to measure.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// What a unit of a load takes the server's core.
    Load {
        /// Over what.
        transport: Transport,
        /// Of `hairpin bench`, and its arguments.
        arguments: &'static [&'static str],
        /// The same for a load that only has to be there.
        background: &'static [&'static str],
    },
    /// What a packet takes the server's core, with as many as it can relay. For who relays in the kernel, the kernel
    /// repeats what the load has sent.
    Flood {
        /// Of `hairpin bench`, and its arguments.
        arguments: &'static [&'static str],
        /// Directions of all allocations.
        flows: u64,
    },
    /// What an allocation takes of the server's resident memory, by such a load.
    Memory {
        /// Of `hairpin bench`, and its arguments.
        arguments: &'static [&'static str],
    },
    /// From the start of the program to its first answer.
    Start,
}

/// Between clients and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Connections.
    Tcp,
    /// Connections with TLS.
    Tls,
}

/// What a figure should be at most.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// There is none.
    None,
    /// So many times coturn's.
    OfCoturn(f64),
    /// So many times Hairpin's own in another row.
    OfRow(&'static str, f64),
    /// So much, in the row's unit.
    Absolute(f64),
}

impl What {
    /// What figures are in.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Load { .. } | Self::Flood { .. } => "µs",
            Self::Memory { .. } => "B",
            Self::Start => "ms",
        }
    }
}

impl Row {
    /// Why it cannot be measured here, if it cannot.
    pub fn missing(&self, contestants: &[Contestant]) -> Option<String> {
        if contestants.is_empty() {
            return Some("none of the servers asked for is installed".to_owned());
        }
        let is_flood = matches!(self.what, What::Flood { .. });
        (is_flood && !flood::is_built()).then(|| "built without clang".to_owned())
    }
}

const fn load(arguments: &'static [&'static str]) -> What {
    load_over(Transport::Udp, arguments)
}

const fn load_over(transport: Transport, arguments: &'static [&'static str]) -> What {
    What::Load { transport, arguments, background: &[] }
}

const fn comparison(name: &'static str, title: &'static str, goal: Goal, what: What) -> Row {
    Row { name, title, section: Section::Comparison, what, configuration: "", has_limit: false, goal }
}

/// Relaying ChannelData over UDP, of which the forwarder shows the limit.
const fn relay(name: &'static str, title: &'static str, goal: f64, arguments: &'static [&'static str]) -> Row {
    Row { has_limit: true, ..comparison(name, title, Goal::OfCoturn(goal), load(arguments)) }
}

const fn growth(name: &'static str, title: &'static str, goal: Goal, what: What) -> Row {
    Row { section: Section::Growth, ..comparison(name, title, goal, what) }
}

/// How much a growth curve may rise from its first row to its last.
const GROWTH_MAX: f64 = 1.3;

macro_rules! hold {
    ($allocations:literal) => {
        &["relay", "--allocations", $allocations, "--rate", "1", "--seconds", "3600"]
    };
}

/// All rows, in the order of the tables.
pub fn all() -> Vec<Row> {
    let mut rows = vec![
        relay(
            "relay-160-2000",
            "relay ChannelData over UDP, 160 B, 2,000 allocations",
            0.65,
            &["relay", "--allocations", "2000"],
        ),
        relay("relay-160-100", "the same, 100 allocations", 0.80, &["relay"]),
        relay("relay-1200-100", "1,200 B, 100 allocations", 0.80, &["relay", "--payload", "1200"]),
        relay("relay-160-1", "160 B, 1 allocation", 0.45, &["relay", "--allocations", "1"]),
        relay("relay-1200-1", "1,200 B, 1 allocation", 0.45, &["relay", "--allocations", "1", "--payload", "1200"]),
        relay("relay-160-burst8", "160 B, 100 allocations, bursts of 8", 0.45, &["relay", "--burst", "8"]),
        relay(
            "relay-1200-burst8",
            "1,200 B, 100 allocations, bursts of 8",
            0.45,
            &["relay", "--burst", "8", "--payload", "1200"],
        ),
        comparison(
            "indications-160-100",
            "Send and Data indications, 160 B, 100 allocations",
            Goal::OfRow("relay-160-100", 1.10),
            load(&["relay", "--indications"]),
        ),
        comparison(
            "relay-to-relay-100",
            "relay to relay through the server, 160 B, 100 pairs",
            Goal::OfCoturn(0.35),
            load(&["relay", "--relay-to-relay", "--allocations", "200"]),
        ),
        Row {
            has_limit: true,
            ..comparison(
                "tcp-1200-10",
                "relay for clients on TCP, 1,200 B, 10 clients",
                Goal::OfCoturn(0.60),
                load_over(Transport::Tcp, &["relay", "--allocations", "10", "--payload", "1200"]),
            )
        },
        comparison(
            "tls-1200-10",
            "relay for clients on TLS, 1,200 B, 10 clients",
            Goal::OfCoturn(0.65),
            load_over(Transport::Tls, &["relay", "--allocations", "10", "--payload", "1200"]),
        ),
        comparison(
            "allocate",
            "authenticated Allocate, permission, channel, deletion",
            Goal::OfCoturn(0.30),
            load(&["allocate"]),
        ),
        comparison(
            "setup-tls",
            "TLS client, from its connection to its first packet through a channel",
            Goal::OfCoturn(0.45),
            load_over(Transport::Tls, &["setup"]),
        ),
        comparison("binding", "Binding", Goal::OfCoturn(0.55), load(&["binding"])),
        relay(
            "moderate-40000",
            "a packet at 40,000 packets a second, 100 allocations",
            1.0,
            &["relay", "--rate", "40000"],
        ),
        Row {
            configuration: "[sockets]\ncoalesce = \"500us\"",
            ..relay(
                "moderate-40000-coalesce",
                "the same, Hairpin with `sockets.coalesce = \"500us\"`",
                0.75,
                &["relay", "--rate", "40000"],
            )
        },
        comparison(
            "idle-memory",
            "resident memory of an idle allocation with one channel",
            Goal::Absolute(2048.0),
            What::Memory { arguments: &["idle", "--allocations", "5000"] },
        ),
        comparison("start", "start to first answer", Goal::Absolute(30.0), What::Start),
    ];
    rows.extend([
        growth("grow-relay-100", "relay, 100 allocations", Goal::None, load(&["relay"])),
        growth(
            "grow-relay-1000",
            "relay, 1,000 allocations",
            Goal::OfRow("grow-relay-100", GROWTH_MAX),
            load(&["relay", "--allocations", "1000"]),
        ),
        growth(
            "grow-relay-5000",
            "relay, 5,000 allocations",
            Goal::OfRow("grow-relay-100", GROWTH_MAX),
            load(&["relay", "--allocations", "5000"]),
        ),
        growth(
            "grow-relay-15000",
            "relay, 15,000 allocations",
            Goal::OfRow("grow-relay-100", GROWTH_MAX),
            load(&["relay", "--allocations", "15000"]),
        ),
    ]);
    for row in rows.iter_mut().filter(|row| row.section == Section::Growth) {
        row.has_limit = true;
    }
    let observing = |name, title, arguments| Row {
        section: Section::Observing,
        ..comparison(name, title, Goal::None, load(arguments))
    };
    rows.extend([
        observing("observing-relay", "relay, 160 B, 100 allocations", &["relay"]),
        observing("observing-relay-40000", "the same at 40,000 packets a second", &["relay", "--rate", "40000"]),
        observing("observing-allocate", "authenticated Allocate, permission, channel, deletion", &["allocate"]),
    ]);
    let kernel = |name, title, goal, what| Row {
        section: Section::Kernel,
        has_limit: true,
        ..comparison(name, title, Goal::OfCoturn(goal), what)
    };
    rows.extend([
        kernel(
            "kernel-160-2000",
            "relay ChannelData over UDP, 160 B, 2,000 allocations",
            0.14,
            What::Flood { arguments: &["relay", "--allocations", "2000"], flows: 4000 },
        ),
        kernel("kernel-160-100", "the same, 100 allocations", 0.22, What::Flood { arguments: &["relay"], flows: 200 }),
        kernel(
            "kernel-1200-2000",
            "1,200 B, 2,000 allocations",
            0.14,
            What::Flood { arguments: &["relay", "--allocations", "2000", "--payload", "1200"], flows: 4000 },
        ),
        kernel(
            "kernel-1200-100",
            "1,200 B, 100 allocations",
            0.22,
            What::Flood { arguments: &["relay", "--payload", "1200"], flows: 200 },
        ),
        Row {
            has_limit: false,
            ..kernel(
                "kernel-relay-to-relay",
                "relay to relay through the server, 160 B, 100 pairs",
                0.12,
                What::Flood { arguments: &["relay", "--relay-to-relay", "--allocations", "200"], flows: 200 },
            )
        },
        kernel(
            "kernel-40000",
            "160 B at 40,000 packets a second, 100 allocations",
            0.5,
            load(&["relay", "--rate", "40000"]),
        ),
        kernel(
            "kernel-100000",
            "160 B at 100,000 packets a second, 2,000 allocations: coturn's limit",
            0.5,
            load(&["relay", "--rate", "100000", "--allocations", "2000"]),
        ),
    ]);
    let beside = |background| What::Load { transport: Transport::Udp, arguments: &["allocate"], background };
    rows.extend([
        growth("grow-allocate-100", "allocate beside 100 allocations", Goal::None, beside(hold!("100"))),
        growth(
            "grow-allocate-1000",
            "allocate beside 1,000 allocations",
            Goal::OfRow("grow-allocate-100", GROWTH_MAX),
            beside(hold!("1000")),
        ),
        growth(
            "grow-allocate-5000",
            "allocate beside 5,000 allocations",
            Goal::OfRow("grow-allocate-100", GROWTH_MAX),
            beside(hold!("5000")),
        ),
        growth(
            "grow-allocate-15000",
            "allocate beside 15,000 allocations",
            Goal::OfRow("grow-allocate-100", GROWTH_MAX),
            beside(hold!("15000")),
        ),
    ]);
    rows
}
