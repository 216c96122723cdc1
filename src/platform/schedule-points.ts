/**
 * Schedule points: every access to a shared word names the protocol step that it performs.
 *
 * The production build ignores the names. A scheduled build can stop a thread at any of them. docs/ARCHITECTURE.md uses
 * the same names for the steps of the protocols.
 */
export type Site =
  // short DMA: the reader's epoch
  | 'dma.enter.publish'
  | 'dma.enter.confirm'
  | 'dma.exit.publish'
  | 'dma.exit.waiting'
  | 'dma.exit.wake'
  // walk of the radix tree
  | 'walk.high'
  | 'walk.root'
  | 'walk.mid'
  | 'walk.leaf'
  | 'walk.frame'
  | 'walk.switching'
  // long pins
  | 'pin.inc'
  | 'pin.undo'
  | 'pin.undo.wake'
  | 'unpin.dec'
  | 'unpin.wake'
  // the writer: map
  | 'map.frame'
  | 'map.link'
  | 'map.valid'
  | 'map.zero'
  // the writer: unmap
  | 'unmap.invalidate'
  | 'unmap.pincount'
  | 'unmap.pinwait'
  | 'unmap.clear'
  | 'unmap.bump'
  | 'unmap.waiting'
  | 'unmap.epoch'
  | 'unmap.epochwait'
  | 'unmap.unlink'
  | 'unmap.force'
  // the writer: switching an address space
  | 'switch.mark'
  // the log of written and held host pages
  | 'log.place'
  | 'log.flag'
  | 'log.mark'
  | 'log.held'
  | 'log.take'
  | 'log.clear'
  | 'table.init'
  | 'table.audit'
  | 'table.list'
  // rings, doorbells and the words of a device link
  | 'ring.slot'
  | 'ring.head'
  | 'ring.tail'
  | 'ring.wait'
  | 'doorbell.pending'
  | 'doorbell.sequence'
  | 'doorbell.wait'
  | 'link.word'
  | 'link.wait'
  | 'registers.mirror'
  // requests between devices
  | 'peer.bar'
  | 'peer.request'
  | 'peer.state'
  | 'peer.asked'
  | 'peer.events'
  | 'peer.wait'
  // the journal of a guest's script
  | 'journal.counter'
  | 'journal.line'
  | 'journal.end'
  // the engine of a physical GPU, and the statistics of the vGPUs that share it
  | 'engine.want'
  | 'engine.owner'
  | 'engine.lease'
  | 'engine.policy'
  | 'engine.clock'
  | 'engine.slot'
  | 'engine.stats'
  // bytes of guest RAM
  | 'ram.word'
  | 'ram.copy'
  | 'ram.fill'
  | 'ram.checksum'
  | 'ram.wait'
  // the log of pages that threads other than device workers write
  | 'ramlog.mark'
  | 'ramlog.take'
  | 'ramlog.clear';
