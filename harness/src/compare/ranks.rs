//! Whether one sample lies above another: Mann and Whitney's rank-sum test. It looks at the order of the values alone, so
//! one stall of the machine weighs no more than any other value that is the largest. Pure arithmetic.

/// Samples of so many values together are tested exactly; larger ones by the normal approximation, which is good to
/// three digits from there on.
const MOST_EXACT: usize = 40;

/// How likely it is that the ranks of `above` sum up to this much or more if both samples come from the same
/// distribution. Equal values share their ranks. 1 if a sample is empty.
#[must_use]
pub fn likelihood(below: &[f64], above: &[f64]) -> f64 {
    if below.is_empty() || above.is_empty() {
        return 1.0;
    }
    let ranks = doubled_ranks(below, above);
    if ranks.len() <= MOST_EXACT { exact(&ranks, above.len()) } else { approximate(&ranks, above.len()) }
}

/// The least [`likelihood`] that samples of these sizes can have: that of samples that do not overlap.
#[must_use]
pub fn least_likelihood(below: usize, above: usize) -> f64 {
    let choices = (1..=above).fold(1.0, |choices, i| choices * (below + i) as f64 / i as f64);
    1.0 / choices
}

/// The middle value, or the mean of the two in the middle; none of nothing.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length.is_multiple_of(2) => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        _ => Some(sorted[middle]),
    }
}

/// Twice the rank of each value, those of `below` first: doubled, the mean rank of equal values is whole.
fn doubled_ranks(below: &[f64], above: &[f64]) -> Vec<usize> {
    let values: Vec<f64> = below.iter().chain(above).copied().collect();
    let mut sorted = values.clone();
    sorted.sort_by(f64::total_cmp);
    values
        .iter()
        .map(|value| {
            let first = sorted.partition_point(|other| other.total_cmp(value).is_lt());
            let after = sorted.partition_point(|other| other.total_cmp(value).is_le());
            first + 1 + after
        })
        .collect()
}

/// Counts the ways to pick `size` of the ranks, by their sum.
fn exact(ranks: &[usize], size: usize) -> f64 {
    let seen: usize = ranks[ranks.len() - size..].iter().sum();
    let total: usize = ranks.iter().sum();
    let mut ways = vec![vec![0.0_f64; total + 1]; size + 1];
    ways[0][0] = 1.0;
    for rank in ranks {
        for picked in (1..=size).rev() {
            for sum in (*rank..=total).rev() {
                ways[picked][sum] += ways[picked - 1][sum - rank];
            }
        }
    }
    let all: f64 = ways[size].iter().sum();
    ways[size][seen..].iter().sum::<f64>() / all
}

/// With the corrections for ties and for continuity.
fn approximate(ranks: &[usize], size: usize) -> f64 {
    let (all, above) = (ranks.len() as f64, size as f64);
    let below = all - above;
    let sum = ranks[ranks.len() - size..].iter().sum::<usize>() as f64 / 2.0;
    let mean_rank = f64::midpoint(all, 1.0);
    let spread: f64 = ranks.iter().map(|rank| (*rank as f64 / 2.0 - mean_rank).powi(2)).sum();
    let deviation = (below * above / (all * (all - 1.0)) * spread).sqrt();
    if deviation <= 0.0 {
        return 1.0;
    }
    upper_tail((sum - above * mean_rank - 0.5) / deviation)
}

/// The probability that a normal variable is more than `z` deviations above its mean (Abramowitz and Stegun 26.2.17;
/// exact to 7.5e-8).
fn upper_tail(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - upper_tail(-z);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let series = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429]
        .into_iter()
        .rev()
        .fold(0.0, |sum, factor| (sum + factor) * t);
    series * (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn samples_apart_are_as_unlikely_as_one_choice_of_all() {
        let apart = likelihood(&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]);
        assert!((apart - 1.0 / 70.0).abs() < 1e-12, "{apart}");
        assert!((least_likelihood(4, 4) - apart).abs() < 1e-12);
        assert!((least_likelihood(3, 5) - 1.0 / 56.0).abs() < 1e-12);
    }

    #[test]
    fn equal_samples_say_nothing() {
        assert!((likelihood(&[5.0; 4], &[5.0; 4]) - 1.0).abs() < 1e-12);
        assert!((likelihood(&[5.0; 30], &[5.0; 30]) - 1.0).abs() < 1e-12);
        assert!((likelihood(&[], &[1.0]) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn one_stall_changes_little() {
        let likely = likelihood(&[10.0, 11.0, 12.0, 13.0], &[10.5, 11.5, 12.5, 9_000.0]);
        assert!(likely > 0.1, "{likely}");
    }

    #[test]
    fn medians_are_the_middle() {
        assert_eq!([median(&[]), median(&[3.0, 1.0, 2.0])], [None, Some(2.0)]);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }

    proptest! {
        #[test]
        fn approximation_is_close_where_both_are_possible(
            below in proptest::collection::vec(0u8..50, 12..20),
            above in proptest::collection::vec(0u8..60, 12..20),
        ) {
            let floats = |values: &[u8]| values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>();
            let ranks = doubled_ranks(&floats(&below), &floats(&above));
            let (exact, approximate) = (exact(&ranks, above.len()), approximate(&ranks, above.len()));
            prop_assert!((exact - approximate).abs() < 0.01, "{exact} {approximate}");
        }

        #[test]
        fn no_samples_are_less_likely_than_those_apart(
            below in proptest::collection::vec(0.0f64..50.0, 1..12),
            above in proptest::collection::vec(0.0f64..50.0, 1..12),
        ) {
            let likely = likelihood(&below, &above);
            prop_assert!(likely <= 1.0 + 1e-9);
            prop_assert!(likely >= least_likelihood(below.len(), above.len()) - 1e-9);
        }
    }
}
