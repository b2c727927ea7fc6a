//! `/v1/explain`: what happened to a client, in words.

use std::net::IpAddr;

use axum::response::Response;

use super::Sources;
use super::answer::{Refusal, good};
use super::sessions::ask;
use crate::ops::explain::{Explanation, read_query};
use crate::shard::StoryQuery;

const FIX: &str = "say whose story by one of id, user, client and about";

fn read(text: Option<&str>) -> Result<StoryQuery, Refusal> {
    let mut parameters = form_urlencoded::parse(text.unwrap_or_default().as_bytes());
    let (Some((key, value)), None) = (parameters.next(), parameters.next()) else {
        return Err(Refusal::bad("query", "it is not clear whose story is wanted", FIX));
    };
    let wrong = |fix: &str| Refusal::bad(format!("query {key}"), "this cannot be understood", fix);
    match &*key {
        "id" => {
            let id = value.parse().map_err(|_| wrong("write the 16 hexadecimal digits of a session id"))?;
            Ok(StoryQuery::Session(id))
        }
        "user" => Ok(StoryQuery::User(value.into_owned())),
        "client" => {
            let client = value.parse::<IpAddr>().map_err(|_| wrong("write an address, like 192.0.2.1"))?;
            Ok(StoryQuery::Client(client.to_canonical()))
        }
        "about" => Ok(read_query(&value)),
        _ => Err(wrong(FIX)),
    }
}

pub(super) async fn explain(sources: &Sources, query: Option<&str>) -> Result<Response, Refusal> {
    let query = read(query)?;
    if sources.config.borrow().shards.recorder.events == 0 {
        let fix = "set recorder.events in the configuration, and reload it";
        return Err(Refusal::unavailable("the flight recorder is switched off", fix));
    }
    let put = query.clone();
    let told = ask(sources, |shards, answer| shards.explain(put, move |told| drop(answer.send(told))));
    let told = told.await?.ok_or_else(|| Refusal::unavailable("the shards did not answer in time", "ask again"))?;
    Ok(good(&Explanation::new(&query, told)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::SessionId;

    #[test]
    fn a_question_is_about_one_thing() {
        assert_eq!(read(Some("id=00000000deadbeef")).unwrap(), StoryQuery::Session(SessionId(0xDEAD_BEEF)));
        assert_eq!(read(Some("user=a%25%0A%00b")).unwrap(), StoryQuery::User("a%\n\0b".into()));
        assert_eq!(read(Some("client=192.0.2.1")).unwrap(), StoryQuery::Client("192.0.2.1".parse().unwrap()));
        assert_eq!(read(Some("about=192.0.2.1")).unwrap(), StoryQuery::Client("192.0.2.1".parse().unwrap()));
        for (text, place) in [
            ("", "query"),
            ("user=a&client=192.0.2.1", "query"),
            ("id=1", "query id"),
            ("client=x", "query client"),
            ("colour=red", "query colour"),
        ] {
            assert_eq!(read(Some(text)).unwrap_err().errors[0].place, place);
        }
    }
}
