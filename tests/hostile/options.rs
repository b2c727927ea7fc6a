//! The same with everything switched on that is off by default and open to anybody: NAT behaviour discovery, Binding
//! without cookie, redirection before authentication.

use std::net::IpAddr;

use hairpin::turn::{
    Alternate, BehaviorDiscovery, Compatibility, Effect, Redirect, RedirectWhen, ServerAddress, Transport, Verdict,
};

use crate::dice::Dice;
use crate::fixture::{Fixture, path};
use crate::memory::live_bytes;
use crate::storms::{GROWTH_BYTES_MAX, mutations, storm};
use crate::wire::{self, Builder, Class};

const CHANGE_REQUEST: u16 = 0x0003;
const PADDING: u16 = 0x0026;
const RESPONSE_PORT: u16 = 0x0027;

/// FINGERPRINT, and a 300's address.
const MORE_THAN_A_CHALLENGE: usize = 8 + 12;

fn fixture() -> Fixture {
    Fixture::with(|config| {
        let ip = |last| IpAddr::from([203, 0, 113, last]);
        let address = |last| ServerAddress { bind: ip(last), advertise: ip(last) };
        config.behavior_discovery = Some(BehaviorDiscovery {
            addresses: vec![[address(1), address(2)]],
            udp: Some([3478, 3479]),
            tcp: Some([3478, 3479]),
            tls: None,
            change_request: true,
            response_port: true,
            padding: true,
        });
        config.compatibility = Compatibility { classic_udp: true, classic_tcp: true, ..Compatibility::default() };
        config.redirect = Redirect {
            when: RedirectWhen::Always,
            alternates: vec![Alternate { addresses: vec![ip(9)], port: 3478, tls_port: 5349, domain: None }],
            unauthenticated: true,
            shares_nonces: true,
            ..Redirect::default()
        };
    })
}

fn corpus() -> Vec<Vec<u8>> {
    let mut corpus = crate::corpus::unauthenticated();
    let binding = || Builder::new(wire::message_type(wire::BINDING, Class::Request), [3; 12]);
    for flags in [0, 2, 4, 6] {
        corpus.push(binding().u32(CHANGE_REQUEST, flags).attribute(RESPONSE_PORT, &[0x1F, 0x40]).finish());
        corpus.push(binding().u32(CHANGE_REQUEST, flags).attribute(PADDING, &[7; 300]).fingerprint().finish());
    }
    corpus.push(binding().attribute(PADDING, &[7; 2000]).attribute(RESPONSE_PORT, &[0, 0, 0, 0]).finish());
    corpus.push(binding().attribute(PADDING, &[7; 20_000]).finish());
    let mut cookieless = corpus.clone();
    cookieless.iter_mut().filter(|message| message.len() >= 20).for_each(|message| message[4] ^= 0x80);
    corpus.extend(cookieless);
    corpus
}

/// Abuse S4, S5, NATB-5780-7.6-01: no panic, no state, at most one answer, to the address that asked, and longer than
/// the question no more than a challenge is.
#[test]
fn s5_what_is_open_to_anybody_costs_no_state_and_amplifies_no_more() {
    let mut fixture = fixture();
    let corpus = corpus();
    let bare = Builder::new(wire::message_type(wire::REFRESH, Class::Request), [1; 12]).finish();
    let (Verdict::Reply { len: challenge }, _) = fixture.judge(path(Transport::Udp, "198.18.0.1:1"), &bare) else {
        panic!("a bare request is challenged");
    };
    // Lists of unknown attributes are shorter.
    let answer_len_max = challenge + MORE_THAN_A_CHALLENGE;
    let before = live_bytes();
    storm(mutations() / 2, &corpus, |dice: &mut Dice, message| {
        let transport = Transport::ALL[dice.below(2) as usize];
        let from = path(transport, &format!("198.18.{}.7:{}", dice.below(256), 1024 + dice.below(60_000)));
        let (verdict, effects) = fixture.judge(from, message);
        let answer = match (verdict, &effects[..]) {
            (Verdict::Drop(_), []) => None,
            (Verdict::Reply { len }, []) => Some(fixture.reply[..len].to_vec()),
            (Verdict::Later, [Effect::Send { to, bytes }]) => {
                assert_eq!((to.client.ip(), to.transport), (from.client.ip(), from.transport));
                assert!(!transport.is_stream() || (to.client, to.server) == (from.client, from.server));
                Some(bytes.to_vec())
            }
            other => panic!("{other:?}"),
        };
        if let Some(answer) = answer {
            assert!(answer.len() <= message.len().max(answer_len_max), "{} for {}", answer.len(), message.len());
            assert_eq!(answer[4..20], message[4..20], "the id, and the cookie or what was there instead");
            assert!(answer[0] == 1 && (answer[1] & 0x10 != 0 || message[..2] == [0, 1]), "a success for nobody");
        }
        assert_eq!((fixture.server.allocations(), fixture.server.next_timeout()), (0, None));
    });
    assert!(live_bytes() - before < GROWTH_BYTES_MAX, "it grew by {} bytes", live_bytes() - before);
}
