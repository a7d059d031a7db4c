//! Spreading of flows over several queues: by an RSS context, which all flows to the same queues
//! share; where there can be none, each flow goes to one of the queues, in turn.

use netdev::QueueId;

/// Destination of a flow: a queue, or an RSS context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spread<C> {
    Queue(QueueId),
    Context(C),
}

/// Finds the destination of each flow, given by the queues that it is to be spread over.
/// `new_context` is called once for the same queues, and returns `None` where there can be no RSS
/// context: then there must be as many flows as queues, or `too_few` is the error.
pub(crate) fn spread<C: Copy, E>(
    flows: &[&[QueueId]],
    mut new_context: impl FnMut(&[QueueId]) -> Result<Option<C>, E>,
    too_few: impl Fn(&[QueueId]) -> E,
) -> Result<Vec<Spread<C>>, E> {
    let mut contexts: Vec<(&[QueueId], Option<C>)> = Vec::new();
    let mut ways = Vec::new();
    for (number, &queues) in flows.iter().enumerate() {
        if let [queue] = queues {
            ways.push(Spread::Queue(*queue));
            continue;
        }
        if queues.is_empty() {
            return Err(too_few(queues));
        }
        let known = contexts.iter().find(|(to, _)| *to == queues);
        let context = match known {
            Some((_, context)) => *context,
            None => {
                let context = new_context(queues)?;
                contexts.push((queues, context));
                context
            }
        };
        let same = |flows: &[&[QueueId]]| flows.iter().filter(|to| **to == queues).count();
        let before = same(flows.get(..number).unwrap_or_default());
        let way = match context {
            Some(context) => Some(Spread::Context(context)),
            None if same(flows) < queues.len() => None,
            None => queues
                .iter()
                .cycle()
                .nth(before)
                .copied()
                .map(Spread::Queue),
        };
        ways.push(way.ok_or_else(|| too_few(queues))?);
    }
    Ok(ways)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(ids: impl IntoIterator<Item = u32>) -> Vec<QueueId> {
        ids.into_iter().map(QueueId::new).collect()
    }

    #[test]
    fn one_context_for_all_that_go_to_the_same_queues() {
        let (two, others, one) = (ids([2, 3]), ids([0, 1]), ids([5]));
        let flows: Vec<&[QueueId]> = vec![&two, &one, &two, &others, &two];
        let mut made = 0;
        let new = |_: &[QueueId]| {
            made += 1;
            Ok::<_, ()>(Some(made))
        };
        let ways = spread(&flows, new, |_| ()).unwrap();
        let (first, second) = (Spread::Context(1), Spread::Context(2));
        let queue = Spread::Queue(QueueId::new(5));
        assert_eq!(ways, [first, queue, first, second, first]);
    }

    #[test]
    fn without_contexts_one_flow_is_too_few_for_two_queues() {
        let two = ids([2, 3]);
        let none = |_: &[QueueId]| Ok::<Option<u32>, &str>(None);
        assert_eq!(spread(&[&two], none, |_| "too few"), Err("too few"));
        assert_eq!(spread(&[], none, |_| "too few"), Ok(Vec::new()));
        let all = |_: &[QueueId]| Ok(Some(1));
        assert_eq!(spread(&[&[]], all, |_| "too few"), Err("too few"));
        assert_eq!(spread(&[&[]], none, |_| "too few"), Err("too few"));
    }

    proptest! {
        /// Without RSS contexts every queue gets a flow, and the numbers of flows of two queues
        /// differ by one at most.
        #[test]
        fn without_contexts_queues_take_turns(queues in 2u32..9, flows in 0usize..40) {
            let to = ids(0..queues);
            let all = vec![to.as_slice(); flows];
            let ways = spread(&all, |_| Ok::<Option<u32>, ()>(None), |_| ());
            if flows > 0 && flows < queues as usize {
                prop_assert_eq!(ways, Err(()));
                return Ok(());
            }
            let ways = ways.unwrap();
            let count = |id: &QueueId| ways.iter().filter(|way| **way == Spread::Queue(*id)).count();
            let counts: Vec<usize> = to.iter().map(count).collect();
            prop_assert_eq!(counts.iter().sum::<usize>(), flows);
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            prop_assert!(most - least <= 1 && (flows == 0 || *least > 0));
        }
    }
}
