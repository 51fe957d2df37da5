#include "order.h"

#include <algorithm>

namespace graft::ptx {
namespace {

void maximum(std::vector<std::uint32_t>& to, const std::vector<std::uint32_t>& from) {
  if (to.size() < from.size()) to.resize(from.size());
  for (std::size_t at = 0; at < from.size(); ++at) to[at] = std::max(to[at], from[at]);
}

}  // namespace

void Knowledge::join(const Knowledge& other) {
  maximum(seen, other.seen);
  maximum(fenced, other.fenced);
}

void Knowledge::add(Event event) {
  if (seen.size() <= event.actor) seen.resize(event.actor + 1u);
  seen[event.actor] = std::max(seen[event.actor], event.clock + 1);
}

Order::Order(unsigned warps) : threads_(warps * warp_size), warps_(warps) {
  for (Past& past : warps_) {
    past.common.seen.resize(actors());
    past.common.fenced.resize(actors());
  }
}

bool Order::knows(unsigned warp, unsigned lane, Event event) const {
  const Past& past = warps_[warp];
  return event.actor == warp * warp_size + lane || past.common.seen[event.actor] > event.clock ||
         (past.additional[lane] && past.additional[lane]->seen[event.actor] > event.clock);
}

bool Order::knows_fenced(unsigned warp, unsigned lane, Event event) const {
  const Past& past = warps_[warp];
  return past.common.fenced[event.actor] > event.clock ||
         (past.additional[lane] && past.additional[lane]->fenced[event.actor] > event.clock);
}

Knowledge Order::release(unsigned warp, Lanes lanes) {
  Past& past = warps_[warp];
  Knowledge knowledge = past.common;
  for (unsigned lane = 0; lane < warp_size; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    if (past.additional[lane]) knowledge.join(*past.additional[lane]);
    knowledge.seen[warp * warp_size + lane] = past.clock + 1;
  }
  ++past.clock;
  return knowledge;
}

void Order::acquire(unsigned warp, Lanes lanes, Lanes live, const Knowledge& knowledge) {
  if (knowledge.empty()) return;
  Past& past = warps_[warp];
  if ((lanes & live) == live) {
    past.common.join(knowledge);
    return;
  }
  for (unsigned lane = 0; lane < warp_size; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    if (!past.additional[lane]) past.additional[lane] = std::make_unique<Knowledge>(past.common);
    past.additional[lane]->join(knowledge);
  }
}

void Order::proxy_fence(unsigned warp, Lanes lanes, Lanes live) {
  Knowledge knowledge = release(warp, lanes);
  if ((lanes & live) != live) {
    // Each lane fences what it knows itself.
    for (unsigned lane = 0; lane < warp_size; ++lane) {
      if (!(lanes >> lane & 1)) continue;
      auto& additional = warps_[warp].additional[lane];
      if (!additional) additional = std::make_unique<Knowledge>(warps_[warp].common);
      maximum(additional->fenced, additional->seen);
      additional->fenced[warp * warp_size + lane] = warps_[warp].clock;
    }
    return;
  }
  maximum(warps_[warp].common.fenced, warps_[warp].common.seen);
  for (unsigned lane = 0; lane < warp_size; ++lane) {
    if (lanes >> lane & 1) warps_[warp].common.fenced[warp * warp_size + lane] = warps_[warp].clock;
    if (auto& additional = warps_[warp].additional[lane]; additional && lanes >> lane & 1)
      maximum(additional->fenced, additional->seen);
  }
}

}  // namespace graft::ptx
