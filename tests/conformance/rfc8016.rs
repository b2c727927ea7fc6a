//! RFC 8016: mobility.

use std::time::{Duration, Instant};

use crate::bench::{Bench, Peer};
use crate::case::{Need, Section, Step, failed, must};
use crate::client::{Client, Judged};
use crate::drafts::*;
use crate::ensure;
use crate::link::{DATAGRAMS, UDP};
use crate::numbers::*;
use crate::wire::{Draft, Message};

const ON: &[Need] = &[Need::Mobility];

pub fn sections() -> Vec<Section> {
    vec![tickets(), moving()]
}

fn tickets() -> Section {
    let cases = vec![
        must("MOB-8016-3.1.2-01", "an empty MOBILITY-TICKET in Allocate brings a ticket")
            .needs(ON)
            .test(|bench| mobile(bench).map(drop)),
        must("MOB-8016-3.1.2-02", "mobility that is forbidden is 405")
            .needs(&[Need::MobilityForbidden])
            .test(|bench| bench.client()?.ask_signed(&allocate().with(MOBILITY_TICKET, []))?.error_is(405).map(drop)),
        must("MOB-8016-3.1.2-03", "a ticket in Allocate is 400").needs(ON).test(|bench| {
            bench.client()?.ask_signed(&allocate().with(MOBILITY_TICKET, [7; 16]))?.error_is(400).map(drop)
        }),
        must("MOB-8016-3.1.2-04", "a server without mobility ignores the attribute").test(|bench| {
            if [Need::Mobility, Need::MobilityForbidden].iter().any(|need| bench.target.has.contains(need)) {
                return crate::case::not_applicable("the server knows mobility");
            }
            let response = bench.client()?.ask_signed(&allocate().with(MOBILITY_TICKET, []))?.success()?;
            ensure!(!response.has(MOBILITY_TICKET), "MOBILITY-TICKET: {response}");
            Ok(())
        }),
        must("MOB-8016-3.1.2-05", "a response with a ticket fits an unknown path").over(UDP).needs(ON).test(|bench| {
            let response = bench.client()?.ask_signed(&allocate().with(MOBILITY_TICKET, []))?.success()?;
            ensure!(response.bytes.len() <= 548, "{} bytes: {response}", response.bytes.len());
            Ok(())
        }),
        must("MOB-8016-5-01", "a ticket with any bit changed is worth nothing").needs(ON).test(|bench| {
            let (client, ticket, _) = mobile(bench)?;
            for place in [0, ticket.len() / 2, ticket.len() - 1] {
                let mut forged = ticket.clone();
                forged[place] ^= 1;
                let mut mover = elsewhere(bench, &client, &ticket)?;
                mover.ask_signed(&refresh().with(MOBILITY_TICKET, forged))?.error_is(400)?;
            }
            Ok(())
        }),
    ];
    Section { title: "RFC 8016 §3.1, §5 tickets", cases }
}

fn moving() -> Section {
    let cases = vec![
        must("MOB-8016-3.2.2-01", "Refresh with a ticket finds the allocation from elsewhere").needs(ON).test(
            |bench| {
                let (client, ticket, _) = mobile(bench)?;
                moved(bench, &client, &ticket).map(drop)
            },
        ),
        must("MOB-8016-3.2.2-02", "a ticket of nothing is 437, one that is none 400").needs(ON).test(|bench| {
            let (mut client, ticket, _) = mobile(bench)?;
            let mut mover = elsewhere(bench, &client, &ticket)?;
            mover.ask_signed(&refresh().with(MOBILITY_TICKET, [7; 40]))?.error_is(400)?;
            client.ask_signed(&refresh_for(0))?.success()?;
            mover.ask_signed(&refresh().with(MOBILITY_TICKET, ticket))?.error_is(437).map(drop)
        }),
        must("MOB-8016-3.2.2-03", "a ticket from the unchanged 5-tuple is 400").needs(ON).test(|bench| {
            let (mut client, ticket, _) = mobile(bench)?;
            client.ask_signed(&refresh().with(MOBILITY_TICKET, ticket))?.error_is(400).map(drop)
        }),
        must("MOB-8016-3.2.2-04", "somebody else's ticket is 441").needs(&[Need::Mobility, Need::SecondUser]).test(
            |bench| {
                let (client, ticket, _) = mobile(bench)?;
                let mut mover = elsewhere(bench, &client, &ticket)?;
                mover.user = bench.second_user()?.clone();
                mover.ask_signed(&refresh().with(MOBILITY_TICKET, ticket))?.error_is(441).map(drop)
            },
        ),
        must("MOB-8016-3.2.2-05", "Refresh with a ticket where mobility is forbidden is 405")
            .needs(&[Need::MobilityForbidden])
            .test(|bench| {
                bench.client()?.ask_signed(&refresh().with(MOBILITY_TICKET, [7; 40]))?.error_is(405).map(drop)
            }),
        must("MOB-8016-3.2.2-06", "moving brings a new ticket").needs(ON).test(|bench| {
            let (client, ticket, _) = mobile(bench)?;
            let (_mover, response) = moved(bench, &client, &ticket)?;
            let next = response.get(MOBILITY_TICKET).unwrap_or_default();
            ensure!(!next.is_empty() && next != ticket, "expected another ticket: {response}");
            Ok(())
        }),
        must("MOB-8016-3.2.2-07", "the old path is used until data comes over the new one").needs(ON).test(|bench| {
            let (mut client, ticket, (relayed, peer)) = mobile(bench)?;
            let (mut mover, _) = moved(bench, &client, &ticket)?;
            peer.send(relayed, b"to the old path")?;
            client.expect_data(b"to the old path")?;
            mover.send(peer.address, b"here I am")?;
            peer.expect(b"here I am")?;
            peer.send(relayed, b"to the new path")?;
            mover.expect_data(b"to the new path")?;
            client.hears_nothing()
        }),
        must("MOB-8016-3.2.2-08", "channels and permissions move along").needs(ON).test(|bench| {
            let (mut client, ticket, (relayed, peer)) = mobile(bench)?;
            client.bind_channel(0x4000, peer.address)?;
            let (mut mover, _) = moved(bench, &client, &ticket)?;
            mover.send_on_channel(0x4000, b"same channel")?;
            let from = peer.expect(b"same channel")?;
            ensure!(from == relayed, "it came from {from} instead of {relayed}");
            peer.send(relayed, b"and back")?;
            mover.expect_channel_data(0x4000, b"and back").map(drop)
        }),
        must("MOB-8016-3.2.2-09", "the old ticket is good for the same Refresh only").over(DATAGRAMS).needs(ON).test(
            |bench| {
                let (client, ticket, _) = mobile(bench)?;
                let mut mover = elsewhere(bench, &client, &ticket)?;
                let signed = mover.signed(&refresh().with(MOBILITY_TICKET, &ticket))?;
                let first = mover.ask(&signed)?.success()?;
                let again = mover.ask(&signed)?.success()?;
                ensure!(first.get(MOBILITY_TICKET) == again.get(MOBILITY_TICKET), "{first} and then {again}");
                let mut thief = elsewhere(bench, &client, &ticket)?;
                thief.ask_signed(&refresh().with(MOBILITY_TICKET, ticket))?.error_is_one_of(&[400, 437]).map(drop)
            },
        ),
    ];
    Section { title: "RFC 8016 §3.2 moving", cases }
}

/// A client that may move: its ticket, its relayed address, and a permitted peer.
fn mobile(bench: &Bench) -> Step<(Client, Vec<u8>, (std::net::SocketAddr, Peer))> {
    let mut client = bench.client()?;
    let response = client.ask_signed(&allocate().with(MOBILITY_TICKET, []))?.success()?;
    let (Some(ticket), Some(relayed)) = (response.get(MOBILITY_TICKET), response.xored(XOR_RELAYED_ADDRESS)) else {
        return failed(format!("expected MOBILITY-TICKET: {response}"));
    };
    ensure!(!ticket.is_empty(), "an empty ticket: {response}");
    let peer = bench.peer()?;
    client.permit(peer.address)?;
    Ok((client, ticket.to_vec(), (relayed, peer)))
}

/// The same user on another 5-tuple, with a nonce for it.
fn elsewhere(bench: &Bench, client: &Client, ticket: &[u8]) -> Step<Client> {
    let mut mover = bench.client()?;
    mover.user = client.user.clone();
    mover.challenge_by(&refresh().with(MOBILITY_TICKET, ticket))?;
    Ok(mover)
}

fn moved(bench: &Bench, client: &Client, ticket: &[u8]) -> Step<(Client, Message)> {
    let mut mover = elsewhere(bench, client, ticket)?;
    let draft: Draft = refresh().with(MOBILITY_TICKET, ticket);
    let began = Instant::now();
    let response = mover.ask_signed(&draft)?.success()?;
    ensure!(began.elapsed() < Duration::from_secs(30), "it took longer than the old ticket lives");
    Ok((mover, response))
}
