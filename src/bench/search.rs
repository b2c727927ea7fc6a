//! The highest load without loss, in the manner of RFC 2544 §26.1: trials, each of a fixed length at a fixed rate.

use super::BenchError;

/// What counts as the answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    /// Where to begin, packets a second; not a bound.
    pub first: f64,
    /// Never more than this.
    pub rate_max: f64,
    /// The share of packets that may be lost, from 0 to 1.
    pub loss_max: f64,
    /// Passing and failing rates are told apart to this share of the rate.
    pub resolution: f64,
    /// How many trials at the rate found must pass in all.
    pub confirmations: u32,
}

/// The lowest rate worth a trial.
const RATE_MIN: f64 = 10.0;

/// Doubles until a trial fails, halves until one passes, then closes in; what is found must pass again, else the search
/// goes on below. `trial` says whether it passed. Returns the rate and what its last trial said.
///
/// # Errors
/// Those of a trial.
pub fn search<R>(
    rule: &Search,
    mut trial: impl FnMut(f64) -> Result<(bool, R), BenchError>,
) -> Result<Option<(f64, R)>, BenchError> {
    // Rates that have passed, rising, and the lowest above them that has not.
    let (mut good, mut bad): (Vec<f64>, Option<f64>) = (Vec::new(), None);
    let mut rate = rule.first.clamp(RATE_MIN, rule.rate_max);
    loop {
        let (mut passed, mut result) = trial(rate)?;
        let is_closed_in = bad.is_some_and(|bad| bad - rate <= rule.resolution * bad);
        if passed && (rate >= rule.rate_max || is_closed_in) {
            for _ in 1..rule.confirmations {
                (passed, result) = trial(rate)?;
                if !passed {
                    break;
                }
            }
            if passed {
                return Ok(Some((rate, result)));
            }
        }
        if passed {
            good.push(rate);
        } else {
            bad = Some(rate);
            good.retain(|good| *good < rate);
        }
        rate = match (good.last().copied(), bad) {
            // What is so close below is as good as the answer, if it passes again.
            (Some(last), Some(bad)) if bad - last <= rule.resolution * bad => {
                good.pop();
                last
            }
            (Some(last), Some(bad)) => f64::midpoint(last, bad),
            (Some(last), None) => (last * 2.0).min(rule.rate_max),
            (None, Some(bad)) if bad <= RATE_MIN => return Ok(None),
            (None, Some(bad)) => (bad / 2.0).max(RATE_MIN),
            (None, None) => unreachable!("a trial passes or fails"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Search = Search { first: 1000.0, rate_max: 1e6, loss_max: 0.0, resolution: 0.02, confirmations: 2 };

    /// A server that drops above a rate.
    fn found(limit: f64, rule: &Search) -> (Option<f64>, usize) {
        let mut trials = 0;
        let found = search(rule, |rate| {
            trials += 1;
            assert!(trials < 100, "it does not converge");
            Ok((rate <= limit, ()))
        });
        (found.expect("no trial fails").map(|(rate, ())| rate), trials)
    }

    #[test]
    fn it_converges_from_above_and_below() {
        for limit in [37.0, 999.0, 1000.0, 1001.0, 54_321.0, 987_654.0] {
            let (rate, trials) = found(limit, &RULE);
            let rate = rate.expect("there is one");
            assert!(rate <= limit && rate >= limit * 0.95, "{limit}: {rate}");
            assert!(trials <= 40, "{limit}: {trials}");
        }
        assert_eq!(found(1e9, &RULE).0, Some(1e6), "no more than it may");
        assert_eq!(found(1.0, &RULE).0, None);
    }

    #[test]
    fn what_does_not_pass_again_is_not_believed() {
        let mut lucky = 1;
        let found = search(&RULE, |rate| {
            let is_lucky = rate > 5000.0 && rate < 6000.0 && std::mem::take(&mut lucky) == 1;
            Ok((rate <= 5000.0 || is_lucky, ()))
        });
        let (rate, ()) = found.expect("no trial fails").expect("there is one");
        assert!((4700.0..=5000.0).contains(&rate), "{rate}");
    }
}
