//! How sure a count of failures is. Pure arithmetic.

/// The probability that the bound does not hold.
const ALPHA: f64 = 0.05;

/// The one-sided 95 % upper bound of the failure probability after `failed` failures in `requests` independent
/// requests: the exact (Clopper-Pearson) bound, the largest probability under which so few failures would still be
/// seen once in twenty times. For no failures that is `1 - 0.05^(1/n)`, about `3/n`. None if nothing was tried.
#[must_use]
pub fn upper_bound(failed: u64, requests: u64) -> Option<f64> {
    if requests == 0 {
        return None;
    }
    if failed >= requests {
        return Some(1.0);
    }
    if failed == 0 {
        // exp_m1 keeps what 1 - x would round away.
        return Some(-(ALPHA.ln() / requests as f64).exp_m1());
    }
    let (mut low, mut high) = (failed as f64 / requests as f64, 1.0);
    // 60 halvings exhaust the precision of a double.
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if ln_at_most(failed, requests, middle) > ALPHA.ln() {
            low = middle;
        } else {
            high = middle;
        }
    }
    Some(high)
}

/// How likely it is that of `first + second` events at least `second` fall into the second of two lots, if each falls
/// there with probability `share`, independently: the exact one-sided test of two Poisson rates (Przyborowski and
/// Wilenski 1940), `share` being the second lot's part of all requests. 1 if there are no events.
#[must_use]
pub fn second_at_least(first: u64, second: u64, share: f64) -> f64 {
    match (second, share) {
        (0, _) => 1.0,
        (_, share) if share <= 0.0 => 0.0,
        (_, share) if share >= 1.0 => 1.0,
        // At least `second` in the second lot means at most `first` in the first.
        _ => ln_at_most(first, first + second, 1.0 - share).exp().min(1.0),
    }
}

/// The logarithm of the probability of at most `failed` failures in `requests` requests, each failing with
/// `probability`. Terms are added from the largest, the last, downwards until they no longer count.
fn ln_at_most(failed: u64, requests: u64, probability: f64) -> f64 {
    let (n, k) = (requests as f64, failed as f64);
    let odds = probability.ln() - (-probability).ln_1p();
    let last = ln_choose(n, k) + k * probability.ln() + (n - k) * (-probability).ln_1p();
    let (mut term, mut sum) = (0.0_f64, 1.0_f64);
    let mut i = k;
    while i > 0.0 {
        // C(n, i-1) / C(n, i) = i / (n - i + 1)
        term += i.ln() - (n - i + 1.0).ln() - odds;
        let share = term.exp();
        sum += share;
        if share < sum * 1e-12 {
            break;
        }
        i -= 1.0;
    }
    last + sum.ln()
}

fn ln_choose(n: f64, k: f64) -> f64 {
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

/// Stirling's series; exact to a double's precision from 10 on, below that by multiplication.
fn ln_factorial(n: f64) -> f64 {
    if n < 10.0 {
        let mut product = 1.0;
        let mut i = 2.0;
        while i <= n {
            product *= i;
            i += 1.0;
        }
        return product.ln();
    }
    let inverse = 1.0 / n;
    n * n.ln() - n + 0.5 * (2.0 * std::f64::consts::PI * n).ln() + inverse / 12.0 - inverse.powi(3) / 360.0
        + inverse.powi(5) / 1260.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bounds_are_those_of_the_tables() {
        // The probability under which the binomial distribution gives at most k of n once in twenty times, computed
        // from its plain sum.
        let table = [
            (0, 1_000, 0.002_991_25),
            (1, 100, 0.046_559_81),
            (5, 1_000, 0.010_484_08),
            (50, 1_000, 0.062_863_40),
        ];
        for (failed, requests, expected) in table {
            let bound = upper_bound(failed, requests).unwrap();
            assert!(
                (bound / expected - 1.0).abs() < 1e-6,
                "{failed}/{requests}: {bound} instead of {expected}"
            );
        }
        assert_eq!(upper_bound(0, 0), None);
        assert_eq!(upper_bound(7, 7), Some(1.0));
    }

    #[test]
    fn zero_of_a_million_is_about_three_per_million() {
        let per_million = upper_bound(0, 1_000_000).unwrap() * 1e6;
        assert!((per_million - 2.9957).abs() < 1e-3, "{per_million}");
    }

    #[test]
    fn two_rates_are_told_apart_by_as_much_as_chance_allows() {
        let table = [
            ((0, 10, 0.5), 0.5_f64.powi(10)),
            ((0, 1, 0.5), 0.5),
            ((1, 3, 0.5), 5.0 / 16.0),
            ((3, 0, 0.5), 1.0),
            ((0, 0, 0.5), 1.0),
            ((0, 2, 0.25), 0.0625),
        ];
        for ((first, second, share), expected) in table {
            let likely = second_at_least(first, second, share);
            assert!(
                (likely - expected).abs() < 1e-9,
                "{first} {second} {share}: {likely} instead of {expected}"
            );
        }
        assert!(second_at_least(0, 1, 0.0) < f64::EPSILON, "nothing can fall into an empty lot");
    }

    proptest! {
        #[test]
        fn more_in_the_second_lot_is_never_more_likely(first in 0u64..500, second in 0u64..500, share in 0.01f64..0.99) {
            let likely = second_at_least(first, second, share);
            prop_assert!((0.0..=1.0).contains(&likely));
            prop_assert!(second_at_least(first, second + 1, share) <= likely + 1e-9);
        }

        #[test]
        fn bound_lies_above_the_rate_and_grows_with_failures(failed in 0u64..2_000, more in 1u64..1_000_000) {
            let requests = failed + more;
            let bound = upper_bound(failed, requests).unwrap();
            prop_assert!(bound >= failed as f64 / requests as f64);
            prop_assert!(bound <= 1.0);
            prop_assert!(upper_bound(failed + 1, requests + 1).unwrap() >= bound * 0.999_999);
        }
    }
}
