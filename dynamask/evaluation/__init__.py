from dynamask.evaluation.coco import CocoMetrics, coco_metrics

__all__ = ["CocoMetrics", "coco_metrics"]
