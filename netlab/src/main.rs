//! The `netlab` command.

fn main() {
    let session = netlab::Session::enter().unwrap();
    let mut options = netlab::Options::default();
    options.turn_server = netlab::options::TurnServerChoice::Coturn;
    let filter = std::env::args().nth(1).unwrap_or_default();
    for scenario in netlab::scenario::all().into_iter().filter(|s| s.name.contains(&filter)) {
        println!("{}: {:?}", scenario.name, match scenario.run(&session, &options) {
            netlab::scenario::Outcome::Passed{summary,..} => summary, o => format!("{o:?}")});
    }
}
