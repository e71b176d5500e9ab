//! What connection tracking loses. A firewall or a container engine loads it; it remembers every connection for two
//! minutes after its end (`nf_conntrack_tcp_timeout_time_wait`), and when its table is full new ones are dropped.
//!
//! `/proc/net/stat/nf_conntrack` has a line of hexadecimal counters a CPU (`ct_cpu_seq_show` in the kernel's
//! `nf_conntrack_standalone.c`).

/// Packets that were dropped for want of room, since the machine started; 0 where nothing is tracked.
pub(crate) fn drops() -> u64 {
    std::fs::read_to_string("/proc/net/stat/nf_conntrack").map_or(0, |text| sum(&text, "drop"))
}

/// The sum of a column over all CPUs; 0 if there is no such column.
fn sum(text: &str, column: &str) -> u64 {
    let mut lines = text.lines();
    let position = lines.next().and_then(|names| names.split_whitespace().position(|name| name == column));
    let Some(position) = position else { return 0 };
    lines
        .filter_map(|line| line.split_whitespace().nth(position))
        .filter_map(|number| u64::from_str_radix(number, 16).ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_is_found_by_name_and_summed_over_the_cpus() {
        let text = "entries  found drop early_drop\n0002b42a  00000000 00002774 00000002\n0002b42a  00000000 00000010 00000000\n";
        assert_eq!(sum(text, "drop"), 0x2784);
        assert_eq!(sum(text, "early_drop"), 2);
        assert_eq!(sum(text, "lunch"), 0);
        assert_eq!(sum("", "drop"), 0);
    }
}
